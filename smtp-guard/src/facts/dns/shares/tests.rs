use super::*;

const LIMITS: Limits = Limits { total: 20, of_network: 10 };

fn party(network: u64, source: u64, standing: Standing) -> Party {
    Party { source: Source(network << 8 | source), network: Source(network << 8), standing }
}

fn newcomer(network: u64, source: u64) -> Party {
    party(network, source, Standing::Newcomer)
}

fn known(network: u64, source: u64) -> Party {
    party(network, source, Standing::Known)
}

/// Who asks, after so many ms, and what comes of it: a place, that of another, or none.
type Step = (Party, u64, Result<Option<Party>, Full>);

fn check(held: &[(Party, usize)], steps: &[Step]) {
    let mut shares = Shares::new(LIMITS);
    let mut now = Instant::now();
    for (party, count) in held {
        for _ in 0..*count {
            shares.take(*party, (), now).unwrap();
        }
    }
    for (index, (party, ms, expected)) in steps.iter().enumerate() {
        now += Duration::from_millis(*ms);
        let before: Vec<_> = shares.held.iter().map(|held| (held.number, held.party)).collect();
        let taken = shares.take(*party, (), now);
        let gone = before.iter().find(|(number, _)| shares.held.iter().all(|held| held.number != *number));
        let found = taken.map(|(_, displaced)| {
            assert_eq!(displaced, gone.is_some());
            gone.map(|(_, party)| *party)
        });
        assert_eq!(found, *expected, "{index} of {steps:?} with {held:?}");
        assert!(shares.held.len() <= LIMITS.total);
    }
}

#[test]
fn c1_whoever_holds_most_gives_way() {
    let (greedy, small, new) = (newcomer(1, 1), newcomer(2, 1), newcomer(9, 1));
    // Two networks hold all that newcomers may have.
    let full = [(greedy, 9), (newcomer(3, 1), 6), (small, 3)];
    check(&full, &[(new, 0, Ok(Some(greedy))), (new, 0, Ok(Some(greedy))), (small, 0, Ok(Some(greedy)))]);
    // Within a network, the source that holds most does.
    let shared = [(greedy, 6), (newcomer(1, 2), 2), (newcomer(1, 3), 1)];
    check(&shared, &[(newcomer(1, 4), 0, Ok(Some(greedy))), (greedy, 0, Err(Full::Places))]);
    // Nobody holds more than one: none gives way, until it has waited.
    let spread: Vec<_> = (0..18).map(|network| (newcomer(network, 1), 1)).collect();
    check(
        &spread,
        &[
            (newcomer(20, 1), 0, Err(Full::Places)),
            (newcomer(20, 1), 999, Err(Full::Places)),
            (newcomer(20, 1), 1, Ok(Some(newcomer(0, 1)))),
            (newcomer(21, 1), 0, Ok(Some(newcomer(1, 1)))),
        ],
    );
    // Those that hold more don't take from those that hold less, however long these have waited.
    let uneven = [(greedy, 8), (small, 5), (newcomer(3, 1), 5)];
    check(&uneven, &[(greedy, 0, Err(Full::Places)), (greedy, 5_000, Ok(Some(greedy)))]);
}

#[test]
fn c1_a_network_has_a_share_and_history_a_reserve() {
    check(
        &[(newcomer(1, 1), 9)],
        &[
            (newcomer(1, 1), 0, Err(Full::Places)),
            (known(1, 2), 0, Ok(None)),
            (newcomer(2, 1), 0, Ok(None)),
            (known(1, 2), 0, Ok(Some(newcomer(1, 1)))),
        ],
    );
    // A newcomer never takes the place of a known sender.
    check(
        &[(known(1, 1), 10), (known(2, 1), 10)],
        &[(newcomer(3, 1), 60_000, Err(Full::Places)), (known(3, 1), 0, Ok(Some(known(1, 1))))],
    );
    // The guard itself has all places, and takes none from anybody who holds as little.
    let own = Party::own();
    check(&[(own, 20)], &[(own, 60_000, Err(Full::Places)), (newcomer(1, 1), 60_000, Err(Full::Places))]);
}

#[test]
fn what_is_given_back_is_free_again() {
    let (mut shares, now) = (Shares::new(LIMITS), Instant::now());
    let numbers: Vec<_> = (0..9).map(|_| shares.take(newcomer(1, 1), (), now).unwrap().0).collect();
    assert_eq!(shares.take(newcomer(1, 1), (), now), Err(Full::Places));
    // Twice is once.
    shares.give_back(numbers[4]);
    shares.give_back(numbers[4]);
    assert!(shares.take(newcomer(1, 1), (), now).is_ok());
    assert_eq!(shares.take(newcomer(1, 1), (), now), Err(Full::Places));
    for held in shares.held.iter().map(|held| held.number).collect::<Vec<_>>() {
        shares.give_back(held);
    }
    assert!(shares.of_source.is_empty() && shares.of_network.is_empty());
}

#[test]
fn c7_a_source_has_a_rate_of_questions() {
    let mut shares = Shares::new(LIMITS);
    let start = Instant::now();
    let mut asked = |party: Party, ms: u64| {
        let taken = shares.take(party, (), start + Duration::from_millis(ms));
        taken.map(|(number, _)| shares.give_back(number))
    };
    let mut most = |party: Party, ms: u64| (0..).take_while(|_| asked(party, ms).is_ok()).take(100_000).count();
    assert_eq!(most(newcomer(1, 1), 0), 300);
    assert_eq!(most(newcomer(1, 1), 99), 0);
    assert_eq!(most(newcomer(1, 1), 1_000), 10);
    assert_eq!(most(newcomer(1, 2), 1_000), 300, "its neighbour");
    assert_eq!(most(known(1, 3), 1_000), 1_200, "a known sender");
    assert_eq!(most(newcomer(1, 1), 60_000), 300, "after a rest");
    // All sources of a network together are worth sixteen.
    let all: usize = (0..250).map(|source| most(newcomer(2, source), 60_000)).sum();
    assert_eq!(all, 4_800);
    assert_eq!(most(known(2, 251), 60_000), 1_200, "history doesn't depend on neighbours");
    assert_eq!(most(Party::own(), 60_000), 100_000, "the guard itself");
}

#[test]
fn rates_are_kept_for_so_many() {
    let (mut rates, now) = (Rates::default(), Instant::now());
    for n in 0..RATED as u64 {
        assert!(rates.count(Source(n), 1, now));
    }
    assert!(!rates.count(Source(u64::MAX), 1, now), "full");
    assert!(rates.count(Source(1), 1, now), "who is in goes on");
    assert!(rates.count(Source(u64::MAX), 1, now + Duration::from_millis(150)), "room again");
    assert!(rates.0.len() < 10, "{}", rates.0.len());
}
