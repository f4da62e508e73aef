#!/bin/sh
# Makes what a test machine boots from, in the directory that is named: `vmlinuz`, `initramfs` and `system.img`.
#
#   tests/vm/make.sh DIRECTORY [PROGRAM...]
#
# The kernel is Debian's for clouds, unpacked here and never installed: this host's boot is not touched. The system is
# busybox, the programs that tests call, and these PROGRAMs, each at its own path and with the libraries it needs. What
# is made already and still current is left as it is.
set -eu
PATH=$PATH:/usr/sbin:/sbin

# What tests run beside the program itself.
TOOLS="dash nft ip mkfs.ext4 modprobe systemctl runc crun apparmor_parser"
# Of the kernel's modules: what a disk needs; files as disks, bridges, pairs of links, links on links, filters, overlays,
# quotas. The kernel asks for the latter by itself.
BOOT_MODULES="drivers/block/virtio_blk.ko drivers/virtio"
SYSTEM_MODULES="drivers/block/loop.ko drivers/net/dummy.ko drivers/net/ipvlan drivers/net/macvlan.ko
    drivers/net/veth.ko fs/overlayfs fs/quota lib net/802 net/8021q net/bridge net/core net/ipv4 net/ipv6 net/l3mdev
    net/llc net/netfilter"

main() {
    here=$(cd "$(dirname -- "$0")" && pwd)
    mkdir -p "$1"
    cd "$1"
    shift
    exec 9>lock
    flock 9
    make_kernel
    make_initramfs
    [ $# = 0 ] || make_system "$@"
}

fail() {
    printf 'tests/vm/make.sh: %s\n' "$*" >&2
    exit 1
}

# Whether the first is there and not older than any of the others.
is_current() {
    made=$1
    shift
    [ -e "$made" ] || return 1
    for source in "$@"; do
        [ ! "$source" -nt "$made" ] || return 1
    done
}

make_kernel() {
    [ ! -e vmlinuz ] || return 0
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64: run \`apt-get update\`, or tests/run.sh"
    rm -rf kernel
    mkdir kernel
    (cd kernel && apt-get -qq -o APT::Sandbox::User=root download "$package")
    dpkg-deb -x kernel/*.deb kernel
    rm kernel/*.deb
    # Some releases compress their modules, which busybox can't load.
    find kernel -name '*.ko.xz' -exec xz -d {} +
    cp kernel/boot/vmlinuz-* vmlinuz
}

# Only what it takes to mount the system from a disk.
make_initramfs() {
    ! is_current initramfs vmlinuz "$here/init" "$here/make.sh" || return 0
    rm -rf boot
    mkdir -p boot/bin boot/system
    install -m 755 "$(command -v busybox)" boot/bin/busybox
    install -m 755 "$here/init" boot/init
    # shellcheck disable=SC2086 # a list of words
    add_modules boot $BOOT_MODULES
    (cd boot && find . | busybox cpio -o -H newc 2>/dev/null) >initramfs.new
    mv initramfs.new initramfs
}

make_system() {
    ! is_current system.img initramfs "$here/run" "$here/tests.service" "$here/make.sh" "$@" || return 0
    rm -rf system
    mkdir -p system
    for directory in dev disk etc proc root run sys tmp usr/bin usr/lib usr/lib64 usr/sbin var; do
        mkdir -p "system/$directory"
    done
    for directory in bin lib lib64 sbin; do
        ln -s "usr/$directory" "system/$directory"
    done
    install -m 755 boot/bin/busybox system/bin/busybox
    for applet in $(busybox --list); do
        [ -e "system/bin/$applet" ] || ln -s busybox "system/bin/$applet"
    done
    install -m 755 "$here/run" system/sbin/run
    printf 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >system/etc/passwd
    printf 'root:x:0:\nnogroup:x:65534:\n' >system/etc/group
    printf '127.0.0.1 localhost\n' >system/etc/hosts
    : >system/etc/resolv.conf
    for tool in $TOOLS; do
        add "$(command -v "$tool")"
    done
    for program in "$@"; do
        add "$program"
    done
    add_systemd
    # shellcheck disable=SC2086 # a list of words
    add_modules system $SYSTEM_MODULES
    size=$(du -sm system | cut -f 1)
    rm -f system.new
    mkfs.ext4 -q -O ^has_journal -m 0 -d system system.new "$((size + size / 8 + 16))M"
    mv system.new system.img
}

# As little of it as starts: what it is to do is in `run` and `tests.service`.
add_systemd() {
    for program in systemd systemd-executor systemd-shutdown; do
        [ ! -e "/usr/lib/systemd/$program" ] || add "/usr/lib/systemd/$program"
    done
    for unit in sysinit.target basic.target shutdown.target umount.target final.target poweroff.target \
        systemd-poweroff.service; do
        install -D -m 644 "/usr/lib/systemd/system/$unit" "system/usr/lib/systemd/system/$unit"
    done
    install -D -m 644 "$here/tests.service" system/etc/systemd/system/tests.service
    echo 0123456789abcdef0123456789abcdef >system/etc/machine-id
}

# A program at its own path, without what only a debugger needs, and its libraries.
add() {
    rm -f "system$1"
    mkdir -p "system$(dirname -- "$1")"
    strip -o "system$1" "$1"
    chmod 755 "system$1"
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        [ -e "system$library" ] || install -D "$library" "system$library"
    done
}

# Puts these files and directories of modules into the tree.
add_modules() {
    tree=$1
    shift
    from=$(dirname -- "$(find kernel -name modules.builtin)")
    to=$tree/lib/modules/$(basename -- "$from")
    mkdir -p "$to"
    cp "$from"/modules.* "$to"
    for part in "$@"; do
        [ -e "$from/kernel/$part" ] || continue
        mkdir -p "$to/kernel/$(dirname "$part")"
        cp -r "$from/kernel/$part" "$to/kernel/$(dirname "$part")"
    done
    depmod -b "$PWD/$tree" "$(basename -- "$from")"
}

[ $# -ge 1 ] || fail "usage: tests/vm/make.sh DIRECTORY [PROGRAM...]"
main "$@"
