//! One suite for both databases: whatever holds on SQLite holds on PostgreSQL.
//!
//! On SQLite each case is a test of its own. On PostgreSQL one test runs them all, because it starts one server (from
//! the distribution's package) and gives each case a copy of a migrated database.

mod audit_chain;
mod concurrency;
mod harness;
mod identity;
mod lists;
mod operations;
mod resources;
mod schema;
mod sign_in;
mod signing_keys;
mod storage;
mod workers;

use harness::Bench;

macro_rules! cases {
    ($($module:ident :: $case:ident,)*) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$module::$case(crate::Bench::sqlite().await).await;
                }
            )*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgres() {
            let template = harness::postgres_template().await;
            $(
                // Shown when the case fails.
                println!("case {}::{}", stringify!($module), stringify!($case));
                $module::$case(Bench::postgres(&template).await).await;
            )*
        }
    };
}

cases! {
    resources::a_put_resource_is_read_back,
    resources::many_are_read_at_once,
    resources::expect_absent,
    resources::expect_etag,
    resources::expect_present,
    resources::expect_any_keeps_the_creation_time,
    resources::deletes,
    resources::requires,
    resources::children_block_a_deletion,
    resources::a_write_that_fails_half_way_changes_nothing,
    resources::content_references,
    resources::grants,
    resources::audit_lines,
    resources::writes_that_make_no_sense_are_refused,
    resources::everything_survives_a_restart,
    lists::in_byte_order_and_bounded,
    lists::filtered,
    lists::pages_hold_everything_once_and_in_order,
    lists::an_index_finds_every_page,
    operations::an_operation_starts_with_its_resource,
    operations::recorded_as_done,
    operations::claims_go_to_the_oldest_of_the_right_kind,
    operations::an_expired_lease_is_claimed_with_a_higher_fence,
    operations::a_renewed_lease_is_kept,
    operations::released_and_deferred,
    operations::all_are_taken_back,
    operations::steps_are_kept_in_order,
    operations::ends_only_under_its_fence,
    operations::progress_and_cancel,
    operations::lists,
    operations::purges,
    operations::watchers_are_woken,
    operations::waiting_for_an_end,
    identity::tenants_and_subscriptions,
    identity::principals,
    identity::role_assignments,
    identity::settings,
    identity::every_identity_change_is_counted,
    identity::roles_and_locks,
    identity::the_directory,
    sign_in::a_ticket_is_redeemed_once,
    sign_in::a_session_ends_as_a_whole,
    sign_in::tickets_are_forgotten_a_day_after_their_end,
    sign_in::guesses_are_counted_until_their_end,
    signing_keys::a_key_has_one_successor,
    audit_chain::what_is_written_is_linked,
    audit_chain::what_was_done_to_lines_is_named,
    audit_chain::an_end_that_was_written_down_holds_the_chain,
    audit_chain::the_server_forgets_from_the_beginning,
    audit_chain::writers_at_once_make_one_chain,
    concurrency::no_operation_is_claimed_twice,
    concurrency::no_update_is_lost,
    concurrency::a_parent_and_its_child_agree,
    concurrency::two_processes_write_at_once,
    concurrency::dropped_callers_leave_whole_writes,
    concurrency::one_of_many_creators_wins,
    schema::opening_again_and_at_once,
    schema::a_newer_database_is_refused,
    schema::rows_of_before_are_put_in_order,
    schema::clients_of_before_get_applications,
    storage::containers,
    storage::blobs_and_their_lists,
    storage::blobs_are_expected,
    storage::a_container_takes_its_blobs_along,
    workers::a_worker_is_there_until_its_lease_ends,
}
