//! Owns what was written to a board and waits for its answer: when it is written again, and when it is given up.
//! Never reads a clock.

/// Seconds until something is written again for the first time; the next times they double, up to the longest.
const FIRST: f64 = 2.0;
const LONGEST: f64 = 5.0;

/// Something that was written, and not answered yet. Times are seconds since the run began.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) text: String,
    begun: f64,
    again: f64,
    pause: f64,
    pub(super) times: u32,
}

/// What is to be done about an answer that has not come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Wait,
    Again,
    GiveUp,
}

impl Asked {
    pub(super) fn new(text: String, at: f64) -> Self {
        Asked {
            text,
            begun: at,
            again: at + FIRST,
            pause: FIRST,
            times: 1,
        }
    }

    /// Waits for the answer to another text since the same time.
    pub(super) fn with(self, text: String) -> Self {
        Asked { text, ..self }
    }

    /// It may be written again at once.
    pub(super) fn hurry(&mut self) {
        self.again = self.begun;
    }

    /// What is due now. `limit`: how many seconds an answer may take, however often it is asked for.
    pub(super) fn due(&mut self, at: f64, limit: f64) -> Due {
        if at - self.begun >= limit {
            return Due::GiveUp;
        }
        if at < self.again {
            return Due::Wait;
        }
        self.pause = (self.pause * 2.0).min(LONGEST);
        self.again = at + self.pause;
        self.times += 1;
        Due::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_until_the_answer_is_given_up() {
        let mut asked = Asked::new("echo".into(), 10.0);
        let due: Vec<(u32, Due)> = (10..=42)
            .map(|at| (at, asked.due(f64::from(at), 30.0)))
            .filter(|(_, due)| *due != Due::Wait)
            .collect();
        let again = |at| (at, Due::Again);
        assert_eq!(due[..4], [again(12), again(16), again(21), again(26)]);
        assert_eq!(due[6], (40, Due::GiveUp));
    }
}
