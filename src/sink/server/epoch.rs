//! How far the destination has acknowledged everything, although answers come over many connections.

use std::collections::VecDeque;

/// A place in the input between two keys, or between two commands outside a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The file of the run that it is in, counted from 0.
    pub piece: u32,
    /// Whether that is read as a log; else as a snapshot.
    pub in_log: bool,
    /// Bytes before it.
    pub offset: u64,
    /// The database that the input has selected there.
    pub db: u64,
    /// The time that a log told last before it, in Unix milliseconds.
    pub time_ms: Option<i64>,
    /// Keys of snapshots that were read before it, in this run.
    pub keys: u64,
    /// What the numbers of commands in this file are counted from.
    pub base: u64,
}

impl Place {
    /// Whether it stands before another one of the same run.
    pub fn is_before(&self, other: &Place) -> bool {
        (self.piece, self.offset) < (other.piece, other.offset)
    }
}

/// What was sent between two places, and how much of it is not acknowledged yet.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    from: Place,
    open: u64,
}

/// The places that matter, oldest first. The last one is where commands are added.
#[derive(Debug)]
pub(super) struct Epochs {
    epochs: VecDeque<Epoch>,
    /// Number of the first.
    first: u64,
}

impl Epochs {
    pub(super) fn new(from: Place) -> Epochs {
        Epochs {
            epochs: VecDeque::from([Epoch { from, open: 0 }]),
            first: 0,
        }
    }

    /// Begins another one: all that was given out so far stands before this place.
    pub(super) fn reach(&mut self, place: Place) {
        let alone = self.epochs.len() == 1;
        let last = self.epochs.back_mut().expect("there always is one");
        if last.open == 0 && alone {
            last.from = place;
        } else {
            self.epochs.push_back(Epoch {
                from: place,
                open: 0,
            });
        }
    }

    /// The present one, in which something more is open now.
    #[inline]
    pub(super) fn open(&mut self) -> u64 {
        self.epochs.back_mut().expect("there always is one").open += 1;
        self.first + self.epochs.len() as u64 - 1
    }

    /// Something more of an epoch is open in which something is open.
    pub(super) fn reopen(&mut self, epoch: u64) -> u64 {
        self.epochs[(epoch - self.first) as usize].open += 1;
        epoch
    }

    /// Where the present one began.
    pub(super) fn latest(&self) -> &Place {
        &self.epochs.back().expect("there always is one").from
    }

    /// Where an epoch began in which something is open.
    pub(super) fn of(&self, epoch: u64) -> &Place {
        &self.epochs[(epoch - self.first) as usize].from
    }

    /// Something of an epoch is acknowledged.
    #[inline]
    pub(super) fn close(&mut self, epoch: u64) {
        self.epochs[(epoch - self.first) as usize].open -= 1;
        while self.epochs.len() > 1 && self.epochs[0].open == 0 {
            self.epochs.pop_front();
            self.first += 1;
        }
    }

    /// All that stands before this place is acknowledged.
    pub(super) fn acknowledged(&self) -> Place {
        self.epochs[0].from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Place {
        Place {
            offset,
            ..Place::default()
        }
    }

    #[test]
    fn only_what_is_acknowledged_without_a_gap_counts() {
        let mut epochs = Epochs::new(at(0));
        let a = epochs.open();
        epochs.reach(at(10));
        let b = epochs.open();
        epochs.reach(at(20));
        epochs.reach(at(25));
        let c = epochs.open();
        epochs.close(b);
        assert_eq!(epochs.acknowledged(), at(0));
        epochs.close(a);
        assert_eq!(epochs.acknowledged(), at(25));
        assert_eq!(epochs.of(c), &at(25));
        epochs.close(c);
        epochs.reach(at(40));
        assert_eq!(epochs.acknowledged(), at(40));
    }
}
