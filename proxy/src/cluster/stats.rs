//! `cluster.<name>.` stats.
crate::stat_group! {
    /// Per cluster.
    pub struct ClusterStats {
        counters: { upstream_rq_total }
        gauges: { upstream_rq_active }
        histograms: { upstream_rq_time }
    }
}
