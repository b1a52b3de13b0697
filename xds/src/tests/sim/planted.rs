//! The bugs that the simulation must notice, each within as many seeds as are tried.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{SEEDS, run};
use crate::bugs::{Bug, plant};

/// The first seed that notices `bug`.
fn caught_by(bug: Bug) -> Option<u64> {
    plant(Some(bug));
    let found = (0..SEEDS).find(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err());
    plant(None);
    found
}

macro_rules! planted {
    ($($test:ident: $bug:ident,)*) => {
        $(#[test]
        fn $test() {
            assert!(caught_by(Bug::$bug).is_some(), "no seed notices {:?}", Bug::$bug);
        })*
    };
}

planted! {
    catches_an_ack_instead_of_a_nack: AckInsteadOfNack,
    catches_a_nack_with_the_rejected_version: NackWithNewVersion,
    catches_a_stale_nonce: StaleNonce,
    catches_a_nonce_that_survives_a_reconnect: NonceSurvivesReconnect,
    catches_a_bad_version_that_drops_the_good_one: BadDropsGood,
    catches_bad_taken_for_deleted: BadIsDeleted,
    catches_skipped_warming: SkipWarming,
    catches_break_before_make: BreakBeforeMake,
    catches_an_empty_first_request: EmptyFirstDelta,
    catches_a_recorded_bad_version: RecordsBadVersion,
    catches_an_unanswered_empty_response: SilentOnEmpty,
    catches_a_lost_unsubscription: LostUnsubscribe,
    catches_subscriptions_forgotten_at_a_reconnect: ForgetsOnReconnect,
    catches_an_answer_with_the_nonce_of_a_later_response: AnswersNewestNonce,
    catches_a_repeated_nonce_taken_for_a_repeated_response: IgnoresRepeatedNonce,
    catches_a_second_answer: AnswersTwice,
    catches_a_verdict_with_the_version_of_a_later_response: AnswersNewestVersion,
    catches_a_nonce_of_another_type: NonceOfAnotherType,
    catches_a_time_to_live_that_is_ignored: IgnoresTtl,
    catches_a_heartbeat_that_does_not_count: KeepsOldDeadline,
    catches_a_timer_that_nothing_stops: KeepsTimer,
    catches_a_refused_version_that_prolongs_the_life: RefusedTtlCounts,
    catches_times_to_live_forgotten_at_a_reconnect: ForgetsTtlOnReconnect,
    catches_a_claim_to_hold_what_is_over: ClaimsExpired,
    catches_a_heartbeat_taken_for_absence: HeartbeatIsAbsence,
    catches_a_secret_that_is_taken_from_its_user: RemovedSecretGoes,
    catches_half_of_a_file_taken_for_all: TakesHalfFiles,
    catches_an_unreadable_file_that_empties: UnreadableFileEmpties,
    catches_a_file_that_is_not_read_again: MissesReread,
    catches_a_file_that_dies: FilesDie,
    catches_a_wait_for_a_file_that_cannot_be_read: WaitsForUnreadable,
}
