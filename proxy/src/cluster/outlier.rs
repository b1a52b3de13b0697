//! Outlier detection.
/// A cluster's detector.
pub struct Detector;
/// A host's counters for it.
#[derive(Default)]
pub struct HostOutlier;
