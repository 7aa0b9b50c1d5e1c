//! Numbers from numbers: percentiles and ratios of what was measured. Nothing here measures.

use serde::Serialize;

/// Measurements of one thing, in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Series(Vec<f64>);

/// What a series comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many measurements.
    pub(crate) n: usize,
    /// The least.
    pub(crate) min: f64,
    /// The median, by nearest rank: a value that was measured.
    pub(crate) p50: f64,
    /// The 95th percentile, likewise. With fewer than 20 measurements it is the greatest.
    pub(crate) p95: f64,
    /// The greatest.
    pub(crate) max: f64,
}

impl Series {
    /// Adds a measurement. What is not a finite number is a defect of the measuring and must not vanish in a
    /// percentile.
    pub(crate) fn add(&mut self, value: f64) {
        assert!(value.is_finite(), "a measurement is a number");
        self.0.push(value);
    }

    /// The summary, or `None` of nothing.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let rank = |percent| sorted[nearest_rank(percent, sorted.len())];
        Some(Summary { n: sorted.len(), min, p50: rank(50), p95: rank(95), max })
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut series = Self::default();
        values.into_iter().for_each(|value| series.add(value));
        series
    }
}

/// The index, in `count` sorted values, of the smallest one that at least `percent` % of them do not exceed.
fn nearest_rank(percent: usize, count: usize) -> usize {
    (percent * count).div_ceil(100).clamp(1, count) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Summary {
        values.iter().copied().collect::<Series>().summary().unwrap()
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(of(&hundred), Summary { n: 100, min: 1.0, p50: 50.0, p95: 95.0, max: 100.0 });
        assert_eq!(of(&[4.0]), Summary { n: 1, min: 4.0, p50: 4.0, p95: 4.0, max: 4.0 });
        assert_eq!(of(&[3.0, 1.0]), Summary { n: 2, min: 1.0, p50: 1.0, p95: 3.0, max: 3.0 });
    }

    #[test]
    fn thirty_values_have_their_p95_at_the_twenty_ninth() {
        let thirty: Vec<f64> = (1..=30).map(f64::from).collect();
        assert_eq!(of(&thirty), Summary { n: 30, min: 1.0, p50: 15.0, p95: 29.0, max: 30.0 });
    }

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Series::default().summary(), None);
    }
}
