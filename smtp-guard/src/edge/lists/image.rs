//! Ranges to the words that the kernel reads. See [`smtp_guard_ebpf::lists`] for what they mean.

use smtp_guard_ebpf::lists::{
    BASES, BITMAP, BITMAP_WORDS, BITMAPS, BOUND, BOUNDS, CHUNK, DETAILS, FILTER, FILTER_SHIFT, Head, IS_BITMAP, OCTETS,
    PARTIAL, V4, filter_bit, prefix_48,
};

use crate::edge::error::EdgeError;

/// A set of lists, as one half of the map holds it. Each part is as long as what it holds, in whole elements.
#[derive(Debug)]
pub(super) struct Image {
    v4: Vec<u64>,
    bases: Vec<u64>,
    details: Vec<u64>,
    bitmaps: Vec<u64>,
    filter: Vec<u64>,
    bounds: Vec<u64>,
    pub(super) head: Head,
    /// IPv4 networks of /24.
    pub(super) whole: usize,
    pub(super) partial: usize,
}

impl Image {
    /// Builds it from ranges that are sorted and apart. `spares` is the version of the exempt list that was cut out.
    pub(super) fn build(v4: &[(u128, u128)], v6: &[(u128, u128)], spares: u32) -> Result<Self, EdgeError> {
        let mut image = Self {
            v4: vec![0; (BASES - V4) as usize],
            bases: vec![0; (DETAILS - BASES) as usize],
            details: Vec::new(),
            bitmaps: Vec::new(),
            filter: vec![0; 1 << (FILTER_SHIFT - 6)],
            bounds: Vec::with_capacity(v6.len() * 4),
            head: Head { any: !v4.is_empty() || !v6.is_empty(), spares, ..Head::default() },
            whole: 0,
            partial: 0,
        };
        image.set_v4(v4)?;
        image.set_v6(v6)?;
        for part in [&mut image.details, &mut image.bitmaps] {
            part.resize(part.len().next_multiple_of(CHUNK), 0);
        }
        Ok(image)
    }

    /// Where each part begins, in words, and the part.
    pub(super) fn parts(&self) -> [(u32, &[u64]); 6] {
        [
            (V4, &self.v4),
            (BASES, &self.bases),
            (DETAILS, &self.details),
            (BITMAP, &self.bitmaps),
            (FILTER, &self.filter),
            (BOUND, &self.bounds),
        ]
    }

    fn set_v4(&mut self, ranges: &[(u128, u128)]) -> Result<(), EdgeError> {
        // The /24 that is being filled in part: ranges come in order, so there is one at a time.
        let mut part: Option<(usize, [u64; 4])> = None;
        for &(first, last) in ranges {
            let (first, last) = (first as usize, last as usize);
            for net in first >> 8..=last >> 8 {
                let (from, to) = (first.max(net << 8), last.min(net << 8 | 0xff));
                if to - from == 0xff {
                    self.v4[net >> 5] |= 1 << (net & 31);
                    self.whole += 1;
                    continue;
                }
                if let Some(full) = part.take_if(|(open, _)| *open != net) {
                    self.set_part(full)?;
                }
                let (_, bits) = part.get_or_insert((net, [0; 4]));
                for octet in from & 0xff..=to & 0xff {
                    bits[octet >> 6] |= 1 << (octet & 63);
                }
            }
        }
        part.map_or(Ok(()), |part| self.set_part(part))
    }

    fn set_part(&mut self, (net, bits): (usize, [u64; 4])) -> Result<(), EdgeError> {
        let number = self.details.len();
        if number >= PARTIAL as usize {
            return Err(too_large("IPv4 networks of /24 that are listed in part", PARTIAL));
        }
        let group = net >> 5;
        if self.v4[group] >> 32 == 0 {
            self.bases[group >> 1] |= (number as u64) << ((group & 1) * 32);
        }
        self.v4[group] |= 1 << (32 + (net & 31));
        self.partial += 1;
        let octets: Vec<u64> = (0..256).filter(|octet| bits[*octet as usize >> 6] >> (octet & 63) & 1 == 1).collect();
        if octets.len() > OCTETS {
            let bitmap = self.bitmaps.len() / BITMAP_WORDS as usize;
            if bitmap >= BITMAPS as usize {
                return Err(too_large("IPv4 networks of /24 with more than seven entries", BITMAPS));
            }
            self.bitmaps.extend(bits);
            self.details.push(IS_BITMAP | bitmap as u64);
        } else {
            // Places that are left over repeat the first.
            let places =
                (0..OCTETS).map(|place| octets.get(place).or(octets.first()).copied().unwrap_or(0) << (place * 8));
            self.details.push(places.sum());
        }
        Ok(())
    }

    fn set_v6(&mut self, ranges: &[(u128, u128)]) -> Result<(), EdgeError> {
        for &(first, last) in ranges {
            let (from, to) = ((first >> 64) as u64, (last >> 64) as u64);
            if from >> 16 == to >> 16 {
                self.set_filter(prefix_48(from));
            } else {
                let prefixes = from >> 32..=to >> 32;
                if prefixes.end() - prefixes.start() >= 1 << FILTER_SHIFT {
                    self.filter.fill(u64::MAX);
                } else {
                    prefixes.for_each(|prefix| self.set_filter(prefix));
                }
            }
            self.bounds.extend([from, first as u64]);
            // Behind the last address of all there is nothing.
            if let Some(end) = last.checked_add(1) {
                self.bounds.extend([(end >> 64) as u64, end as u64]);
            }
        }
        let bounds = self.bounds.len() / 2;
        if bounds >= BOUNDS as usize {
            return Err(too_large("IPv6 ranges", BOUNDS / 2));
        }
        // At least one is left over, so that a search never runs past the end.
        self.head.bound_bits = (bounds + 1).next_power_of_two().trailing_zeros();
        self.bounds.resize((2usize << self.head.bound_bits).next_multiple_of(CHUNK), u64::MAX);
        Ok(())
    }

    fn set_filter(&mut self, prefix: u64) {
        let bit = filter_bit(prefix);
        self.filter[bit as usize >> 6] |= 1 << (bit & 63);
    }
}

fn too_large(what: &'static str, limit: u32) -> EdgeError {
    EdgeError::ListsTooLarge { what, limit }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use proptest::prelude::*;
    use smtp_guard_ebpf::lists::{self, Words};

    use super::super::ranges::Ranges;
    use super::*;

    impl Words for Image {
        fn word(&self, index: u32) -> u64 {
            let part = self.parts().into_iter().rev().find(|(at, _)| *at <= index);
            part.and_then(|(at, words)| words.get((index - at) as usize)).copied().unwrap_or(0)
        }
    }

    fn image(nets: &[IpNet]) -> Image {
        let (mut v4, mut v6) = (Ranges::default(), Ranges::default());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.add(net.network().to_bits().into(), net.broadcast().to_bits().into()),
                IpNet::V6(net) => v6.add(net.network().to_bits(), net.broadcast().to_bits()),
            }
        }
        v4.merge();
        v6.merge();
        Image::build(v4.as_slice(), v6.as_slice(), 7).unwrap()
    }

    fn listed(image: &Image, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => lists::v4(image, ip.to_bits()),
            IpAddr::V6(ip) => lists::v6(image, image.head, (ip.to_bits() >> 64) as u64, ip.to_bits() as u64),
        }
    }

    fn check(nets: &[IpNet], ip: IpAddr) {
        assert_eq!(listed(&image(nets), ip), nets.iter().any(|net| net.contains(&ip)), "{ip} in {nets:?}");
    }

    #[test]
    fn addresses_are_found() {
        let nets: Vec<IpNet> = [
            "192.0.2.0/24",
            "192.0.3.17/32",
            "192.0.3.255/32",
            "192.0.4.0/25",
            "192.0.5.0/30",
            "0.0.0.0/32",
            "255.255.255.255/32",
            "10.0.0.0/8",
            "2001:db8::/32",
            "2001:db9:0:1::/64",
            "2001:dba::5/128",
            "2a00::/16",
            "2001:dbb:8000::/33",
            "::/128",
        ]
        .map(|net| net.parse().unwrap())
        .into();
        for ip in [
            "192.0.1.255",
            "192.0.2.0",
            "192.0.2.255",
            "192.0.3.0",
            "192.0.3.16",
            "192.0.3.17",
            "192.0.3.18",
            "192.0.3.255",
            "192.0.4.127",
            "192.0.4.128",
            "192.0.5.3",
            "192.0.5.4",
            "0.0.0.0",
            "0.0.0.1",
            "255.255.255.255",
            "255.255.255.254",
            "9.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "11.0.0.0",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db7::",
            "2001:db9::",
            "2001:db9:0:1::9",
            "2001:db9:0:2::",
            "2001:dba::4",
            "2001:dba::5",
            "2001:dba::6",
            "2a00:ffff::1",
            "2a01::",
            "::",
            "::1",
            "2001:dbb:7fff::1",
            "2001:dbb:8000::1",
        ] {
            check(&nets, ip.parse().unwrap());
            check(&[], ip.parse().unwrap());
            check(&["::/0".parse().unwrap(), "0.0.0.0/1".parse().unwrap()], ip.parse().unwrap());
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let every_second: Vec<_> = (0..=u128::from(PARTIAL)).map(|n| (n << 8, n << 8)).collect();
        assert!(Image::build(&every_second[1..], &[], 0).is_ok());
        assert!(Image::build(&every_second, &[], 0).unwrap_err().to_string().contains("listed in part"));
        let ranges: Vec<_> = (0..u128::from(BOUNDS / 2)).map(|n| (n << 9, n << 9)).collect();
        assert!(Image::build(&[], &ranges[1..], 0).is_ok());
        assert!(Image::build(&[], &ranges, 0).unwrap_err().to_string().contains("IPv6 ranges"));
    }

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        // Close to each other, so that they meet in the same words, networks and /32.
        let v4 = (any::<[bool; 3]>(), any::<u16>(), 16u8..=32).prop_map(|([a, b, c], low, length)| {
            let addr = u32::from(a) << 31 | u32::from(b) << 17 | u32::from(c) << 16 | u32::from(low);
            IpNet::new(IpAddr::V4(addr.into()), length).unwrap().trunc()
        });
        let v6 = (any::<[bool; 3]>(), any::<u16>(), prop::sample::select(vec![0u32, 32, 56, 64, 112]), 20u8..=128)
            .prop_map(|([a, b, c], low, shift, length)| {
                let addr =
                    u128::from(a) << 127 | u128::from(b) << 96 | u128::from(c) << 64 | u128::from(low) << shift >> 3;
                IpNet::new(IpAddr::V6(addr.into()), length).unwrap().trunc()
            });
        prop::collection::vec(prop_oneof![v4, v6], 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The addresses at and beside both ends of each network.
        #[test]
        fn as_the_networks_say(nets in nets()) {
            let image = image(&nets);
            for net in &nets {
                let ends = match net {
                    IpNet::V4(net) => {
                        let (a, b) = (net.network().to_bits(), net.broadcast().to_bits());
                        [a.wrapping_sub(1), a, a + (b - a) / 2, b, b.wrapping_add(1)].map(|n| IpAddr::V4(n.into()))
                    }
                    IpNet::V6(net) => {
                        let (a, b) = (net.network().to_bits(), net.broadcast().to_bits());
                        [a.wrapping_sub(1), a, a + (b - a) / 2, b, b.wrapping_add(1)].map(|n| IpAddr::V6(n.into()))
                    }
                };
                // Multicast never comes to the look-up, and its last address is what unused bounds are filled with.
                for ip in ends.into_iter().filter(|ip| ip.is_ipv4() || !ip.is_multicast()) {
                    prop_assert_eq!(listed(&image, ip), nets.iter().any(|net| net.contains(&ip)), "{} in {:?}", ip, nets);
                }
            }
        }
    }
}
