//! What needs a machine of its own: control groups of version 2, an older kernel, reboots and power cuts.

mod apparmor;
mod boot;
mod inside;
mod machine;
mod systemd;
mod user;

use std::path::Path;
use std::time::Duration;

use machine::Machine;

/// Of a test that would do harm elsewhere.
pub fn assert_in_the_machine() {
    // Written by `tests/vm/run`, the first program of a machine.
    assert!(Path::new("/run/words").exists(), "this test is for a machine of its own: see tests/it/vm");
}

/// On Linux 6.1 and one hierarchy, where this host may have neither.
#[test]
fn an_older_kernel_with_one_hierarchy_holds_what_was_asked() {
    let tests = [
        "vm::inside::limits_are_in_the_kernel_and_change_in_place",
        "vm::inside::a_hog_is_killed_and_its_supervisor_goes_on",
        "vm::inside::devices_open_only_where_they_were_given",
        "applying::two_applies_at_once_end_as_one",
        "conformance::native_engine::limits_change_in_place",
        "running::a_container_is_entered_watched_and_stopped",
        "survival::a_container_outlives_its_supervisor_and_gets_another",
        "running::many_layers_at_odd_paths_are_stacked",
        "running::users_and_limits_hold",
    ];
    Machine::new().boot(&tests).ends_well();
}

/// With the kernel's permission and a group, and without.
#[test]
fn ordinary_users_have_what_is_theirs_to_divide() {
    let tests = ["vm::user::limits_are_set_in_a_delegated_group", "vm::user::a_user_without_a_group_is_told"];
    Machine::new().boot(&tests).ends_well();
}

/// Of links on links this host may have some kinds only.
#[test]
fn networks_are_on_links_of_every_kind() {
    let tests = [
        "networks::parents::containers_share_their_parents_hardware_address",
        "networks::parents::a_vlan_is_made_with_its_first_network_and_removed_with_its_last",
        "networks::parents::without_a_parent_a_network_leads_nowhere",
        "networks::parents::containers_on_a_parent_are_machines_of_its_network",
    ];
    Machine::new().boot(&tests).ends_well();
}

/// Of quotas as ext4 keeps them this host's kernel may know nothing.
#[test]
fn volumes_are_held_to_their_size() {
    Machine::new().boot(&["file_systems::a_volume_holds_no_more_than_its_size"]).ends_well();
}

/// The same bundles that this host runs in its own hierarchies.
#[test]
fn other_engines_containers_are_held_in_one_hierarchy() {
    let tests = [
        "oci_groups::limits_of_the_configuration_are_in_the_kernel",
        "oci_groups::what_one_version_alone_has_is_refused_by_the_other",
        "oci_groups::limits_change_while_it_runs",
        "oci_groups::devices_open_only_by_a_rule",
        "vm::inside::disks_are_shared_by_weight_and_limited_by_rate",
        "oci_groups::events_have_all_figures_and_tell_of_memory_that_ran_out",
        "oci_runtime::a_bundle_is_created_started_killed_and_deleted",
        "oci_runtime::one_that_runs_is_deleted_by_force_and_one_that_was_not_started_without",
    ];
    Machine::new().boot(&tests).ends_well();
}

/// runc, and crun, which has no containers where both versions of control groups are mounted.
#[test]
fn runtimes_of_others_make_containers_in_one_hierarchy() {
    let tests = [
        "outside_runtimes::exit_codes_output_and_input_are_the_programs",
        "outside_runtimes::a_container_is_stopped_paused_changed_and_started_again",
        "outside_runtimes::programs_join_it_by_the_same_runtime",
        "outside_runtimes::what_the_engine_shares_and_limits_holds_under_other_runtimes",
    ];
    Machine::new().boot(&tests).ends_well();
}

/// Which Debian's kernel has switched on: all containers of all machines have a profile.
#[test]
fn containers_have_profiles_where_the_kernel_has_apparmor() {
    let tests = [
        "vm::apparmor::containers_have_the_engines_profile_unless_they_say_otherwise",
        "vm::apparmor::a_profile_that_is_named_holds",
        "vm::apparmor::a_bundle_has_the_profile_of_its_configuration",
    ];
    Machine::new().boot(&tests).ends_well();
}

/// Power fails, and is back; then the machine is switched off in order, and on again.
#[test]
fn stacks_come_back_after_a_power_cut_and_after_a_reboot() {
    let machine = Machine::new();
    let mut first = machine.boot(&["vm::boot::stacks_are_made_until_the_power_is_cut"]);
    first.hears("cut now");
    first.cut();
    machine.boot(&["vm::boot::a_command_brings_all_back_and_another_ends_it"]).ends_well();
    machine.boot(&["vm::boot::watch_brings_its_stack_back"]).ends_well();
}

/// The same, where a unit of systemd does both; and what systemd has to do with control groups.
#[test]
fn a_unit_of_systemd_brings_stacks_back_and_ends_them() {
    let machine = Machine::new().with_systemd();
    let mut first = machine.boot(&[
        "vm::systemd::a_scope_holds_a_bundle_through_reloads",
        "vm::systemd::own_containers_are_in_a_scope_that_systemd_leaves_alone",
        "vm::inside::a_hog_is_killed_and_its_supervisor_goes_on",
        "vm::boot::stacks_are_made_until_the_power_is_cut",
    ]);
    first.hears("cut now");
    first.cut();
    for _ in 0..2 {
        machine.boot(&["vm::boot::all_is_back"]).ends_well();
    }
}

#[test]
fn systemd_with_version_1_knows_processes_by_their_scope() {
    let tests = [
        "vm::systemd::with_version_1_processes_are_in_the_scope",
        "vm::systemd::with_version_1_packets_have_a_class_and_a_priority",
    ];
    Machine::new().with_hybrid_systemd().boot(&tests).ends_well();
}

/// The first round says how long an apply takes; the others are cut at moments that cover all of it.
#[test]
fn a_power_cut_at_any_moment_of_an_apply_is_mended_by_the_next() {
    const CUTS: u32 = 4;
    let machine = Machine::new();
    let test = ["vm::inside::what_was_cut_is_mended_and_made_again"];
    let mut first = machine.boot(&test);
    let took: u64 = first.hears("apply took ms: ").parse().unwrap();
    first.cut();
    for round in 0..CUTS {
        let mut boot = machine.boot(&test);
        boot.hears("apply begins");
        // The moment is what the test is about: there is no event to wait for.
        std::thread::sleep(Duration::from_millis(took * u64::from(2 * round + 1) / u64::from(2 * CUTS)));
        boot.cut();
    }
    machine.boot(&test).ends_well();
}
