#!/bin/sh
# Builds the images that the examples and the tests use, from Debian's packages: no registry, no other engine.
#
#   build.sh [DIR [NAME...]]       DIR: where the archives go (target/images); NAME: of recipes.py (all)
#
# Each NAME becomes DIR/NAME.tar, an archive as `docker save` writes it. What is there and was made by these very
# scripts is kept, so that a second run costs nothing; `rm -r DIR` builds anew with today's packages.
# Needs a Debian or Ubuntu with apt-get, dpkg-deb and python3; root only for a first `apt-get update`.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
out=${1:-$here/../../../target/images}
[ $# -gt 0 ] && shift
mkdir -p "$out"
out=$(CDPATH='' cd -- "$out" && pwd)

# One builder at a time: test binaries ask for the images at once.
exec 9>"$out/lock"
flock 9
exec python3 "$here/assemble.py" "$out" "$@" 9>&-
