//! Owns the search for the first bad one of a row of candidates, of which some cannot be tested.
//! Never tests one, and knows nothing of packages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a test said of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    Good,
    Bad,
    /// It cannot be tested.
    Skip,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Test(usize),
    /// An end of the row is not what it was said to be.
    Contradiction(usize, Finding),
    /// The first bad candidate is after `good` and not after `bad`; all between them cannot be tested.
    Found {
        good: usize,
        bad: usize,
    },
}

/// A search in the candidates `0..=last`, of which the first is said to be good and the last to be bad.
#[derive(Clone, Debug)]
pub struct Search {
    last: usize,
    findings: BTreeMap<usize, Finding>,
}

impl Search {
    /// `last` is at least 1.
    pub fn new(last: usize) -> Self {
        Search {
            last,
            findings: BTreeMap::new(),
        }
    }

    pub fn note(&mut self, candidate: usize, finding: Finding) {
        self.findings.insert(candidate, finding);
    }

    /// Both ends first; then the middle of what is undecided.
    pub fn next(&self) -> Next {
        for (end, expected) in [(0, Finding::Good), (self.last, Finding::Bad)] {
            match self.findings.get(&end) {
                None => return Next::Test(end),
                Some(finding) if *finding != expected => {
                    return Next::Contradiction(end, *finding);
                }
                Some(_) => {}
            }
        }
        let (good, bad) = self.bounds();
        match self.middle(good, bad) {
            Some(candidate) => Next::Test(candidate),
            None => Next::Found { good, bad },
        }
    }

    /// The last good candidate before the first bad one, and that one.
    pub fn bounds(&self) -> (usize, usize) {
        let of = |wanted: Finding| {
            let found = self.findings.iter();
            found
                .filter(move |(_, finding)| **finding == wanted)
                .map(|(at, _)| *at)
        };
        let bad = of(Finding::Bad).min().unwrap_or(self.last);
        let good = of(Finding::Good).filter(|at| *at < bad).max().unwrap_or(0);
        (good, bad)
    }

    /// How many tests there may still be, if none is skipped.
    pub fn remaining(&self) -> u32 {
        let (good, bad) = self.bounds();
        usize::BITS - (bad - good - 1).leading_zeros()
    }

    /// The middle of the longest stretch between `good` and `bad` that nothing is known of. Neighbours of what cannot be
    /// tested often cannot either, so that the middle of all is not the place to go on.
    fn middle(&self, good: usize, bad: usize) -> Option<usize> {
        let skipped = self.findings.range(good + 1..bad).map(|(at, _)| *at);
        let mut begin = good + 1;
        let mut longest: Option<(usize, usize)> = None;
        for end in skipped.chain([bad]) {
            let is_longer = longest.is_none_or(|(from, to)| end - begin > to - from);
            if end > begin && is_longer {
                longest = Some((begin, end));
            }
            begin = end + 1;
        }
        longest.map(|(from, to)| from + (to - from - 1) / 2)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Runs a search to its end; gives what it found and what it tested.
    fn run(last: usize, test: impl Fn(usize) -> Finding) -> (Next, Vec<usize>) {
        let mut search = Search::new(last);
        let mut tested = Vec::new();
        loop {
            match search.next() {
                Next::Test(candidate) => {
                    assert!(!tested.contains(&candidate), "{candidate} is tested twice");
                    tested.push(candidate);
                    search.note(candidate, test(candidate));
                }
                done => return (done, tested),
            }
        }
    }

    fn from(first_bad: usize) -> impl Fn(usize) -> Finding {
        move |candidate| match candidate < first_bad {
            true => Finding::Good,
            false => Finding::Bad,
        }
    }

    #[test]
    fn the_ends_are_tested_first_and_must_be_what_they_are_said_to_be() {
        let (found, tested) = run(8, |_| Finding::Good);
        assert_eq!(
            (found, tested),
            (Next::Contradiction(8, Finding::Good), vec![0, 8])
        );
        let (found, tested) = run(8, |_| Finding::Bad);
        assert_eq!(
            (found, tested),
            (Next::Contradiction(0, Finding::Bad), vec![0])
        );
        let (found, _) = run(8, |_| Finding::Skip);
        assert_eq!(found, Next::Contradiction(0, Finding::Skip));
    }

    #[test]
    fn one_step_needs_no_more_than_its_ends() {
        let (found, tested) = run(1, from(1));
        assert_eq!(
            (found, tested),
            (Next::Found { good: 0, bad: 1 }, vec![0, 1])
        );
    }

    #[test]
    fn what_cannot_be_tested_is_gone_around_and_in_the_end_told() {
        let skipping = |skipped: &'static [usize]| {
            move |candidate| match skipped.contains(&candidate) {
                true => Finding::Skip,
                false => from(6)(candidate),
            }
        };
        let (found, _) = run(9, skipping(&[4]));
        assert_eq!(found, Next::Found { good: 5, bad: 6 });
        let (found, _) = run(9, skipping(&[5]));
        assert_eq!(found, Next::Found { good: 4, bad: 6 });
        let (found, _) = run(9, skipping(&[3, 4, 5, 6, 7]));
        assert_eq!(found, Next::Found { good: 2, bad: 8 });
    }

    #[test]
    fn results_that_come_and_go_still_end_between_a_good_and_a_bad_one() {
        let flips = |candidate: usize| match candidate {
            0 | 3 | 4 | 8 => Finding::Good,
            _ => Finding::Bad,
        };
        let (found, _) = run(9, flips);
        let Next::Found { good, bad } = found else {
            panic!("{found:?}");
        };
        assert_eq!(
            (bad, flips(good), flips(bad)),
            (good + 1, Finding::Good, Finding::Bad)
        );
    }

    proptest! {
        #[test]
        fn any_first_bad_one_is_found_in_the_logarithm_of_the_row(last in 1..2000_usize, seed in 0..2000_usize) {
            let first_bad = 1 + seed % last;
            let (found, tested) = run(last, from(first_bad));
            prop_assert_eq!(found, Next::Found { good: first_bad - 1, bad: first_bad });
            let logarithm = usize::BITS - (last - 1).leading_zeros();
            prop_assert!(tested.len() <= 2 + logarithm as usize, "{} for {last}", tested.len());
        }

        #[test]
        fn with_some_that_cannot_be_tested_nothing_between_the_bounds_can(
            last in 2..60_usize,
            seed in 0..60_usize,
            skipped in prop::collection::btree_set(1..59_usize, 0..30),
        ) {
            let first_bad = 1 + seed % last;
            let skipped: BTreeSet<usize> = skipped.into_iter().filter(|at| *at < last).collect();
            let test = |candidate| match skipped.contains(&candidate) {
                true => Finding::Skip,
                false => from(first_bad)(candidate),
            };
            let (found, _) = run(last, test);
            let Next::Found { good, bad } = found else {
                panic!("{found:?}");
            };
            prop_assert!(good < first_bad && first_bad <= bad);
            prop_assert!((good + 1..bad).all(|between| skipped.contains(&between)));
        }
    }
}
