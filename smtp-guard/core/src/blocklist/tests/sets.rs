//! Output of `ipset save`.

use super::*;
use Format::IpsetSave;

#[test]
fn sets_of_addresses_and_networks() {
    let text = "create bad hash:net family inet hashsize 1024 maxelem 65536 timeout 300 comment bucketsize 12 initval 0x1\n\
                add bad 198.51.100.0/24 timeout 299 packets 3 bytes 120 comment \"add bad 1.1.1.1 nomatch\"\n\
                add bad 203.0.113.7\n\
                create six hash:ip family inet6\n\
                add six 2001:db8::1\n\
                create ports hash:ip,port family inet\n\
                add ports 198.51.100.9,tcp:25\n\
                create empty list:set size 8\n\
                add bad 203.0.113.16-203.0.113.20\n\
                add bad 10.0.0.1\n\
                add nowhere 198.51.100.8\n\
                add bad\n\
                flush bad\n";
    let entries = ["198.51.100.0/24", "203.0.113.7", "203.0.113.16-203.0.113.20", "2001:db8::1"];
    let refusals = ["10: private", "11: no set of this name", "12: no entry", "13: neither create nor add"];
    check(text, IpsetSave, &entries, &refusals, 1);
    check(text.replace('\n', "\r\n"), IpsetSave, &entries, &refusals, 1);
    check("create a hash:net\n", IpsetSave, &[], &[], 0);
    check("create a hash:ip netmask 24\nadd a 198.51.100.0\n", IpsetSave, &["198.51.100.0/24"], &[], 0);
    check("create a hash:ip bitmask 255.255.0.255\nadd a 198.51.0.1\n", IpsetSave, &[], &[], 1);
    check(
        "create a hash:net\nadd a 198.51.100.0-198.55.100.0\nadd a 64.0.0.0-66.0.0.0\n",
        IpsetSave,
        &["198.51.100.0-198.55.100.0"],
        &["3: wider than /8"],
        0,
    );
    refused("create a hash:net family inet6\nadd a 2001:db8::1-2001:db8::9\n", "no range of IPv4 addresses");
}

/// The set's entries and exceptions, and what is left.
#[track_caller]
fn without(adds: &[&str], entries: &[&str]) {
    let text = adds.iter().fold("create a hash:net\n".to_owned(), |text, add| text + "add a " + add + "\n");
    check(text, IpsetSave, entries, &[], 0);
}

#[test]
fn exceptions_are_cut_out() {
    without(
        &["198.51.100.0/24", "198.51.100.7 nomatch"],
        &["198.51.100.0-198.51.100.6", "198.51.100.8-198.51.100.255"],
    );
    without(&["198.51.100.0/30 nomatch", "198.51.100.0/29", "198.51.100.1"], &["198.51.100.1", "198.51.100.4/30"]);
    without(&["198.51.100.0/24 nomatch", "198.51.100.0/24"], &[]);
    without(&["198.51.100.0/24 nomatch", "198.51.100.0/25"], &["198.51.100.0/25"]);
    without(
        &["198.51.100.0/24", "198.51.100.0/25 nomatch", "198.51.100.64/26", "198.51.100.64/27 nomatch"],
        &["198.51.100.96/27", "198.51.100.128/25"],
    );
    without(&["198.51.100.0-198.51.100.9", "198.51.100.8/29 nomatch"], &["198.51.100.0/29", "198.51.100.8/31"]);
    without(&["2001:db8::/32", "2001:db8:8000::/33 nomatch"], &["2001:db8::/33"]);
    // An exempt network that the set makes an exception of isn't touched.
    without(&["192.0.2.0/24", "192.0.2.128/25 nomatch"], &["192.0.2.0/25"]);
    // Only within their own set.
    check(
        "create a hash:net\ncreate b hash:net\nadd a 198.51.100.0/24\nadd b 198.51.100.0/25 nomatch\n",
        IpsetSave,
        &["198.51.100.0/24"],
        &[],
        0,
    );
}

proptest! {
    /// The longest prefix that holds an address decides, as in the kernel.
    #[test]
    fn the_longest_prefix_decides(
        adds in prop::collection::btree_map((0u32..64, 26u8..=32), any::<bool>(), 1..20), asked in 0u32..64,
    ) {
        let mut nets: std::collections::BTreeMap<IpNet, bool> = std::collections::BTreeMap::new();
        for ((low, length), nomatch) in adds {
            let ip = IpAddr::from((0xc633_6400_u32 + low).to_be_bytes());
            nets.insert(IpNet::new(ip, length).unwrap().trunc(), nomatch);
        }
        let mut text = "create a hash:net\n".to_owned();
        for (net, nomatch) in &nets {
            text += &format!("add a {net}{}\n", if *nomatch { " nomatch" } else { "" });
        }
        let list = parse(text.as_bytes(), &protected()).unwrap();
        let ip = IpAddr::from((0xc633_6400_u32 + asked).to_be_bytes());
        let longest = nets.iter().filter(|(net, _)| net.contains(&ip)).max_by_key(|(net, _)| net.prefix_len());
        prop_assert_eq!(list.spans.find(ip).is_some(), longest.is_some_and(|(_, nomatch)| !nomatch), "{} in {}", ip, text);
    }
}
