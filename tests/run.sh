#!/bin/sh
# THE test command. Everything that is checked is checked here; `.ci/run` calls it and nothing else.
#
#   tests/run.sh            all of it, as root, on Debian 12 or 13 with Rust: installs what it lacks
#   tests/run.sh NAME...    only these steps, e.g. `tests/run.sh fmt unit`; `tests/run.sh help` lists them
#   tests/run.sh nightly    what takes longer than a change may wait for: each race 500 times, and each guard taken out
#
# Nothing is skipped silently: a tool that is missing and cannot be installed fails the run.
set -eu
cd "$(dirname -- "$0")/.."

ALL="packages tools fmt deny build clippy doc unit images vm it"
NIGHTLY="packages build races guards"

# What tests talk to, none of it part of `stack`: a registry, an nftables reader, peers to compare with, a machine in
# software. Its kernel is unpacked by `tests/vm/make.sh` and never installed.
PACKAGES="age apache2-utils apparmor binutils busybox-static containernetworking-plugins crun curl docker-registry docker.io e2fsprogs
    fish iproute2 kmod nftables openssl passt python3 python3-grpcio python3-jsonschema python3-yaml qemu-system-x86 runc
    slirp4netns strace uidmap zsh"

policy=/usr/sbin/policy-rc.d
made_policy=

main() {
    case ${1:-} in
    help | -h | --help) usage && exit 0 ;;
    esac
    [ "$(id -u)" = 0 ] || fail "needs root: the tests make namespaces, mounts and firewall tables"
    trap 'take_policy_back' EXIT
    trap 'exit 130' INT TERM
    export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
    # shellcheck disable=SC2086 # a list of words
    [ "${1:-}" != nightly ] || set -- $NIGHTLY
    # shellcheck disable=SC2086 # the default is a list of words
    for step in ${*:-$ALL}; do
        case " $ALL $NIGHTLY " in
        *" $step "*) ;;
        *) usage >&2 && exit 2 ;;
        esac
        since=$(date +%s)
        printf '\n=== %s\n' "$step"
        "step_$step"
        printf '=== %s: ok, %s s\n' "$step" "$(($(date +%s) - since))"
    done
}

usage() {
    echo "usage: tests/run.sh [STEP...]"
    echo "steps, in order: $ALL; nightly: $NIGHTLY"
    echo "variables: STACK_RACES=500 runs each race so often (50), STACK_SWEEP=all kills at every call (some)"
}

fail() {
    printf 'tests/run.sh: %s\n' "$*" >&2
    exit 1
}

# --- what the tests need --------------------------------------------------------------------------------------------

step_packages() {
    command -v apt-get >/dev/null || fail "needs Debian's apt-get; on another system install: $PACKAGES"
    absent=
    for package in $PACKAGES; do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || absent="$absent $package"
    done
    command -v cc >/dev/null || absent="$absent gcc libc6-dev"
    [ -n "$absent" ] || return 0
    echo "installing$absent"
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086 # a list of words
    apt-get -qq install -y --no-install-recommends $absent
    take_policy_back
}

# Debian starts a daemon when its package is installed; a machine's policy can say no.
forbid_services() {
    [ ! -e $policy ] || return 0
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    made_policy=1
}

take_policy_back() {
    [ -n "$made_policy" ] || return 0
    rm -f $policy
    made_policy=
}

step_tools() {
    cargo fmt --version 2>/dev/null || rustup component add rustfmt
    cargo clippy --version 2>/dev/null || rustup component add clippy
    # Unoptimised: it builds in one minute instead of six and has only one tree to read.
    cargo deny --version 2>/dev/null || CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install cargo-deny --locked
}

# --- what is checked ------------------------------------------------------------------------------------------------

step_fmt() {
    cargo fmt --check
}

# The advisory database is a git repository; a machine that reaches only package registries cannot fetch it. That is
# the one thing that may go unchecked, and it says so.
step_deny() {
    cargo deny check --hide-inclusion-graph bans licenses sources
    if cargo deny fetch db >/dev/null 2>&1; then
        cargo deny check --hide-inclusion-graph --disable-fetch advisories
    else
        echo "WARNING: the advisory database cannot be reached: known holes in dependencies were NOT looked for" >&2
    fi
}

# One profile for the binary and the tests, so that dependencies are compiled once.
step_build() {
    cargo build --locked --all-targets
}

step_clippy() {
    cargo clippy --locked --all-targets -- -D warnings
}

step_doc() {
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
}

step_unit() {
    cargo test --locked --lib --bins
    cargo test --locked --doc
}

step_images() {
    examples/stacks/images/build.sh
}

# What machines boot from, where tests look for it; these add themselves.
step_vm() {
    tests/vm/make.sh "${CARGO_TARGET_DIR:-target}/tmp/vm"
}

# Real containers: few at once, or deadlines on a small machine are about the machine.
step_it() {
    cargo test --locked --test it -- --test-threads "${TEST_THREADS:-3}"
}

# Each race as often as it takes to be won by who may win it; floods of a minute, and thousands of clients that die.
step_races() {
    STACK_RACES="${STACK_RACES:-500}" cargo test --locked --test it -- --test-threads "${TEST_THREADS:-3}" \
        threats::races copying::links_never back_pressure
}

# That each test of a guard fails without it.
step_guards() {
    tests/guards.py
}

main "$@"
