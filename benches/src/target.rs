//! The speed that was promised (the design's table), and whether it was reached.

use crate::measure::Results;
use crate::statistics::{Series, Summary};
use crate::timeline::Timeline;
use serde::Serialize;

/// A promise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Target {
    /// What was promised.
    pub(crate) what: &'static str,
    /// How the measured number comes about.
    pub(crate) how: &'static str,
    /// `≤` or `≥`.
    pub(crate) side: Side,
    /// The limit.
    pub(crate) limit: f64,
    /// The unit of both numbers.
    pub(crate) unit: &'static str,
    /// What was measured; nothing when it was not.
    pub(crate) measured: Option<f64>,
}

/// On which side of the limit the promise is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    /// Not more.
    AtMost,
    /// Not less.
    AtLeast,
}

/// Whether a promise is kept. Not measured is never kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It is.
    Met,
    /// It is not, by this many percent of the limit.
    Missed(f64),
    /// Nobody knows.
    NotMeasured,
}

impl Target {
    /// Whether it is kept.
    pub(crate) fn verdict(&self) -> Verdict {
        let Some(measured) = self.measured else { return Verdict::NotMeasured };
        let by = match self.side {
            Side::AtMost => measured / self.limit - 1.0,
            Side::AtLeast => 1.0 - measured / self.limit,
        };
        if by <= 0.0 { Verdict::Met } else { Verdict::Missed(by * 100.0) }
    }
}

/// All of them.
pub(crate) fn all(results: &Results) -> Vec<Target> {
    let mut targets = of_the_design(results);
    targets.extend(of_hardening(results));
    targets.extend(of_vms(results));
    targets
}

fn of_the_design(results: &Results) -> Vec<Target> {
    let median = |series: &Series| series.summary().map(|summary| summary.p50);
    let ratio = |above: &Series, below: &Series| Some(median(above)? / median(below)?);
    let runner = |summary: fn(Summary) -> f64| {
        let all = results.residence.iter().filter_map(|residence| residence.runner_rss.summary());
        all.map(summary).reduce(f64::max)
    };
    vec![
        at_most(
            "clone: request → certified",
            "p50 ÷ p50 of bare QEMU, restore → agent answers",
            1.4,
            "×",
            ratio(&results.clone_ready, &results.floor_clone),
        ),
        Target {
            what: "faster than libvirt's restore of the same guest",
            how: "p50 of libvirt's restore → agent answers ÷ p50 of clone, request → certified",
            side: Side::AtLeast,
            limit: 6.0,
            unit: "×",
            measured: ratio(&results.libvirt, &results.clone_ready),
        },
        at_most(
            "cold boot: request → certified",
            "p50 ÷ p50 of bare QEMU, boot → agent answers",
            1.15,
            "×",
            ratio(&results.boot_ready, &results.floor_boot),
        ),
        at_most(
            "cold boot, always",
            "the slowest of all",
            5000.0,
            "ms",
            results.boot_ready.summary().map(|summary| summary.max),
        ),
        at_most(
            "Python hello: the process beside clone and interpreter",
            "p50 of whole process − ready − exec",
            30.0,
            "ms",
            median(&results.clone_rest),
        ),
        at_most("runner resident", "the largest of all", 8.0, "MiB", runner(|summary| summary.max)),
        at_most(
            "VMM death → store says so",
            "p50 until the waiting command has returned, which is later",
            50.0,
            "ms",
            median(&results.vmm_death),
        ),
        at_most("runner killed → all of it gone", "p50", 100.0, "ms", median(&results.runner_death)),
    ]
}

fn of_hardening(results: &Results) -> Vec<Target> {
    vec![
        at_most(
            "confinement, per start",
            "p50 of launch-vmm − p50 of bare QEMU, start → its monitor greets; clones",
            5.0,
            "ms",
            confinement(results),
        ),
        at_most(
            "100,000 finished workloads in the store",
            "p50 of Python hello, whole process ÷ the same with 1,000",
            1.1,
            "×",
            growth(results),
        ),
    ]
}

fn of_vms(results: &Results) -> Vec<Target> {
    let median = |series: &Series| series.summary().map(|summary| summary.p50);
    vec![
        at_most(
            "a VM starts from a template",
            "p50, written down → certified",
            500.0,
            "ms",
            median(&results.vms.ready),
        ),
        at_most(
            "a VM's VMM dies → its death certificate is written",
            "p50 until its runner has left, which is later",
            50.0,
            "ms",
            median(&results.vms.vmm_death),
        ),
        at_most(
            "a VM's runner is killed → all of it gone",
            "p50",
            100.0,
            "ms",
            median(&results.vms.runner_death),
        ),
        at_most("`vm ls` with 1,000 VMs", "p50, whole process", 100.0, "ms", median(&results.vms.list)),
    ]
}

fn at_most(
    what: &'static str,
    how: &'static str,
    limit: f64,
    unit: &'static str,
    measured: Option<f64>,
) -> Target {
    Target { what, how, side: Side::AtMost, limit, unit, measured }
}

/// What the way into the jail adds to QEMU's own start.
fn confinement(results: &Results) -> Option<f64> {
    let median = |timeline: &Timeline, stretch: &str| {
        let stretches = timeline.stretches();
        let (_, series) = stretches.into_iter().find(|(name, _)| *name == stretch)?;
        Some(series.summary()?.p50)
    };
    let product = median(&results.clone_timeline, "launch-vmm")?;
    Some(product - median(&results.floor_clone_timeline, crate::floor::QEMU_STARTS)?)
}

/// The most finished workloads against the fewest.
fn growth(results: &Results) -> Option<f64> {
    let (few, many) = (results.growth.first()?, results.growth.last()?);
    Some(many.run.summary()?.p50 / few.run.summary()?.p50)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(side: Side, limit: f64, measured: Option<f64>) -> Target {
        Target { what: "", how: "", side, limit, unit: "", measured }
    }

    #[test]
    fn a_limit_is_met_on_its_side_and_missed_by_a_share_of_it() {
        assert_eq!(target(Side::AtMost, 10.0, Some(10.0)).verdict(), Verdict::Met);
        assert_eq!(target(Side::AtMost, 10.0, Some(15.0)).verdict(), Verdict::Missed(50.0));
        assert_eq!(target(Side::AtLeast, 10.0, Some(10.0)).verdict(), Verdict::Met);
        assert_eq!(target(Side::AtLeast, 8.0, Some(6.0)).verdict(), Verdict::Missed(25.0));
        assert_eq!(target(Side::AtMost, 10.0, None).verdict(), Verdict::NotMeasured);
    }

    #[test]
    fn nothing_measured_meets_nothing() {
        assert!(all(&Results::default()).iter().all(|target| target.verdict() == Verdict::NotMeasured));
    }

    #[test]
    fn ratios_are_those_of_medians() {
        let floor_clone = [1.0, 10.0, 90.0].into_iter().collect();
        let clone_ready = [5.0, 13.0, 80.0].into_iter().collect();
        let results = Results { floor_clone, clone_ready, ..Results::default() };
        assert_eq!(all(&results)[0].measured, Some(1.3));
        assert_eq!(all(&results)[0].verdict(), Verdict::Met);
    }
}
