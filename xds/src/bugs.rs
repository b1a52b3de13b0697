//! Planted bugs: what the simulation must catch to be trusted. Compiled to nothing outside of tests.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A rejected response is ACKed.
    AckInsteadOfNack,
    /// A NACK repeats the rejected version.
    NackWithNewVersion,
    /// A request after a NACK carries the nonce of the last good response.
    StaleNonce,
    /// The nonce of the old stream is sent on the new one.
    NonceSurvivesReconnect,
    /// A refused resource loses its last good version.
    BadDropsGood,
    /// A full set is read as "whatever is not valid is gone".
    BadIsDeleted,
    /// A cluster is published before its assignment.
    SkipWarming,
    /// An assignment is dropped while its old cluster still serves.
    BreakBeforeMake,
    /// An empty first delta request when nothing is wanted.
    EmptyFirstDelta,
    /// The versions of a partly refused delta response are recorded for all.
    RecordsBadVersion,
    /// A response without resources gets no answer.
    SilentOnEmpty,
    /// A name that nobody wants any more is not given up.
    LostUnsubscribe,
    /// A new stream does not repeat the subscriptions.
    ForgetsOnReconnect,
    /// An answer carries the nonce of the newest response instead of its own.
    AnswersNewestNonce,
    /// A response whose nonce was there before is taken for a repetition.
    IgnoresRepeatedNonce,
    /// A NACK is sent twice.
    AnswersTwice,
    /// An answer carries the version that was accepted last when it leaves, not at its verdict.
    AnswersNewestVersion,
    /// The nonce of a response counts for every type of its stream.
    NonceOfAnotherType,
    /// Nothing ever dies of its time to live.
    IgnoresTtl,
    /// A heartbeat, or a new copy, leaves the timer as it is.
    KeepsOldDeadline,
    /// A copy without a time to live leaves the timer running.
    KeepsTimer,
    /// The time to live of a refused version counts.
    RefusedTtlCounts,
    /// A new stream forgets the times to live of what came on the old one.
    ForgetsTtlOnReconnect,
    /// What is held after its time to live is over is still claimed to be held.
    ClaimsExpired,
    /// A full set is read as "what is only a heartbeat is gone".
    HeartbeatIsAbsence,
    /// A secret that the server takes back is taken from whoever uses it.
    RemovedSecretGoes,
    /// Of a file that ends too early, what can be read is taken.
    TakesHalfFiles,
    /// A file that cannot be read takes with it what it said before.
    UnreadableFileEmpties,
    /// A file is not read again when something more is wanted of it.
    MissesReread,
    /// What a file says dies of its time to live.
    FilesDie,
    /// Who waits for a file that cannot be read waits on.
    WaitsForUnreadable,
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
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
