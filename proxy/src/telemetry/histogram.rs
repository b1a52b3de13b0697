//! Log-linear histograms as Envoy's (two significant decimal digits).
/// A histogram; recording is wait-free.
#[derive(Debug, Default)]
pub struct Histogram;
