//! The order of measurements: A B C, then C B A, and so on, so that a machine that grows slower or warmer is
//! not held against whoever comes last.

/// The indexes of `kinds` things, `rounds` times each.
pub(crate) fn interleaved(kinds: usize, rounds: usize) -> impl Iterator<Item = usize> {
    (0..rounds).flat_map(move |round| {
        (0..kinds).map(move |index| if round % 2 == 0 { index } else { kinds - 1 - index })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_round_goes_backwards() {
        assert_eq!(interleaved(3, 3).collect::<Vec<_>>(), [0, 1, 2, 2, 1, 0, 0, 1, 2]);
        assert_eq!(interleaved(0, 5).count(), 0);
    }
}
