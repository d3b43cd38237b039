//! Mutations without coverage: pieces of seeds, bytes that mean something in SMTP, lines in another order.

/// Bytes of an input at most, as for `cargo xtask fuzz`.
const LONGEST: usize = 2048;
/// Changes of one input at most.
const CHANGES: usize = 6;
/// Bytes and pieces that grammars give a meaning to.
const TOKENS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b".",
    b"\r\n.\r\n",
    b" ",
    b"\t",
    b"<",
    b">",
    b"@",
    b"\"",
    b"\\",
    b":",
    b";",
    b"-",
    b"=",
    b"+",
    b"/",
    b"0",
    b"9",
    b"\x7f",
    b"\xff",
    b"\xc3\xbc",
];

/// Makes inputs of seeds; the same ones in each run.
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// One of `seeds`, changed.
    pub(crate) fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(CHANGES) {
            self.change(&mut input, seeds);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = TOKENS[self.below(TOKENS.len())][0];
                }
            }
            3 => drop(input.drain(self.piece(at, input.len()))),
            // A piece of itself, or of another seed, up to a whole one.
            4 => {
                let piece = input[self.piece(at, input.len())].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                let piece = self.piece(from, other.len());
                input.splice(at..at, other[piece].iter().copied());
            }
            _ => {
                let mut lines: Vec<_> = input.split_inclusive(|byte| *byte == b'\n').collect();
                if !lines.is_empty() {
                    let (one, other) = (self.below(lines.len()), self.below(lines.len()));
                    lines.swap(one, other);
                    *input = lines.concat();
                }
            }
        }
    }

    /// A range that begins at `at` and ends by `length`; mostly a short one.
    fn piece(&mut self, at: usize, length: usize) -> std::ops::Range<usize> {
        let most = if self.below(4) == 0 { length - at } else { (length - at).min(16) };
        at..at + self.below(most + 1)
    }

    /// Marsaglia's xorshift.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}
