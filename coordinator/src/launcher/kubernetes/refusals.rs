//! When a watch that is refused is given up. Servers and their webhooks refuse for a moment, too: while a certificate or a
//! token is renewed, or a Role is applied again.

use super::machine::Moment;
use std::time::Duration;

/// How long a watch that has worked may be refused.
const PATIENCE: Duration = Duration::from_secs(30);
/// Tries of a watch are less than this apart; of what lies further back it is not known whether it went on.
const ROW: Duration = Duration::from_secs(90);

#[derive(Default)]
pub(super) struct Refusals {
    worked: bool,
    /// The first and the last ones in a row.
    row: Option<(Moment, Moment)>,
}

impl Refusals {
    /// Something was heard.
    pub(super) fn works(&mut self) {
        (self.worked, self.row) = (true, None);
    }

    /// It was refused; whether that is final.
    pub(super) fn refused(&mut self, now: Moment) -> bool {
        let first = self.row.filter(|(_, last)| now < *last + ROW).map_or(now, |(first, _)| first);
        self.row = Some((first, now));
        !self.worked || now >= first + PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_worked_is_given_up_after_half_a_minute_of_refusals_in_a_row() {
        let secs = Duration::from_secs;
        let mut refusals = Refusals::default();
        assert!(refusals.refused(secs(0)), "a permission that was never there");
        refusals.works();
        assert_eq!([10, 20, 39, 40].map(|now| refusals.refused(secs(now))), [false, false, false, true]);
        refusals.works();
        assert!(!refusals.refused(secs(50)));
        assert!(!refusals.refused(secs(1000)), "in between it was silent because it went on");
        assert!(refusals.refused(secs(1030)));
    }
}
