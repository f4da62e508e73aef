//! What needs a machine of its own: control groups of version 2, an older kernel, reboots and power cuts.

mod inside;
mod machine;
mod systemd;

use std::time::Duration;

use machine::Machine;

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

/// The same bundles that this host runs in its own hierarchies.
#[test]
fn other_engines_containers_are_held_in_one_hierarchy() {
    let tests = [
        "oci_groups::limits_of_the_configuration_are_in_the_kernel",
        "oci_groups::what_one_version_alone_has_is_refused_by_the_other",
        "oci_groups::limits_change_while_it_runs",
        "oci_groups::devices_open_only_by_a_rule",
        "oci_groups::events_have_all_figures_and_tell_of_memory_that_ran_out",
        "oci_runtime::a_bundle_is_created_started_killed_and_deleted",
        "oci_runtime::one_that_runs_is_deleted_by_force_and_one_that_was_not_started_without",
    ];
    Machine::new().boot(&tests).ends_well();
}

#[test]
fn systemd_gives_groups_and_keeps_their_limits() {
    Machine::new().with_systemd().boot(&["vm::systemd::a_scope_holds_a_bundle_through_reloads"]).ends_well();
}

#[test]
fn a_stack_comes_back_after_a_reboot() {
    let machine = Machine::new();
    machine.boot(&["vm::inside::a_stack_is_made_before_a_reboot"]).ends_well();
    machine.boot(&["vm::inside::apply_brings_it_back_after_the_reboot"]).ends_well();
    machine.boot(&["vm::inside::watch_brings_it_back_after_the_next"]).ends_well();
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
