-- Takes a decision if it is newer than what is known of its source: record, index and change in one step. Says the change's id.
-- KEYS: the source's record, the index, the stream of changes.
-- ARGV: whose word it is ("o": the operator's, "l": a ledger's), when, tie, end, message, source, changes to keep.
local slot, at, tie, ends = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local held = redis.call('HMGET', KEYS[1], slot .. 't', slot .. 'x', 'ot', 'ou', 'lt', 'lu')
if held[1] then
  local known = tonumber(held[1])
  if known > at or (known == at and tonumber(held[2]) >= tie) then return '' end
end
if slot == 'l' and held[3] and tonumber(held[3]) >= at then return '' end
redis.call('HSET', KEYS[1], slot .. 't', ARGV[2], slot .. 'x', ARGV[3], slot .. 'u', ARGV[4], slot .. 'm', ARGV[5])
local last = ends
if slot == 'l' then
  if held[4] and tonumber(held[4]) > last then last = tonumber(held[4]) end
elseif held[5] then
  if tonumber(held[5]) <= at then
    redis.call('HDEL', KEYS[1], 'lt', 'lx', 'lu', 'lm')
  elseif tonumber(held[6]) > last then
    last = tonumber(held[6])
  end
end
local text = string.format('%.0f', last)
redis.call('PEXPIREAT', KEYS[1], text)
redis.call('ZADD', KEYS[2], text, ARGV[6])
return redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', 'm', ARGV[5])
