//! README.md shows what is so.

use super::*;
#[test]
fn readme_shows_what_is_printed() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    compare(&readme, &rows(SEED)).unwrap();
}

#[test]
fn there_are_profiles_enough_and_their_names_differ() {
    let scenarios = profiles::all(SEED);
    let names: std::collections::HashSet<_> = scenarios.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), scenarios.len());
    let attacks = scenarios.iter().filter(|scenario| scenario.is_attack()).count();
    assert!(scenarios.len() - attacks >= 16 && attacks >= 14, "{attacks} of {}", scenarios.len());
}
