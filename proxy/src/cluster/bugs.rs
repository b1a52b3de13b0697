//! Planted bugs: what the simulation must catch to be trusted. Compiled to nothing outside of tests.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// An ejection does not reach the hosts that picks see.
    EjectionNotPublished,
    /// A request's permit is lost when it ends.
    PermitLeaks,
    /// A host that discovery removed goes on being a member.
    RemovedHostStays,
    /// Ejections never end.
    NeverUnejected,
    /// The limit of ejections is not looked at.
    EjectsEverybody,
    /// A retry does not look at its host predicates.
    RetryStays,
    /// A request that ends is still counted as active at its host.
    ActiveLeaks,
    /// What discovery says of draining is not noted.
    DrainingHostPicked,
    /// The last host never gets its turn.
    Starves,
    /// Where a key goes depends on how many hosts there are.
    Reshuffles,
    /// What integer division leaves over of the load goes to nobody.
    LoadIsLost,
    /// Degraded hosts are as good as healthy ones.
    DegradedIsHealthy,
    /// A host that does not answer in time is not blamed.
    TimeoutForgiven,
    /// A try that was not answered in time is the last.
    TimeoutNotRetried,
    /// Breakers do not limit retries.
    RetriesUnlimited,
    /// What subset a request asks for is not looked at.
    SubsetIgnored,
    /// Requests leave their zone without need.
    ZonesIgnored,
    /// Localities without a weight have their turns too.
    LocalityWeightsIgnored,
    /// Least request does not see what hosts are busy with.
    ActiveIgnored,
    /// How long hosts take is not noted.
    TimeIgnored,
    /// A host that joins later gets nothing.
    JoinerLeftOut,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug` in everything that runs on this thread.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
