#!/bin/sh
# Unpack what benchmarks/pack_wheels.py packed: unpack_wheels.sh PARTS SITE [KEEP]
# Parts may arrive one by one: they gather in KEEP (default: SITE.parts) until all are there. Exits 3 while some
# are missing, 0 once SITE is complete. Then: export PYTHONPATH=SITE
set -eu
parts=$1 site=$2 keep=${3:-$2.parts}
[ -f "$site/.complete" ] && exit 0
mkdir -p "$keep"
for folder in "$parts"/[0-9]*; do
    [ -d "$folder" ] && cp -f "$folder"/* "$keep"/
done
[ -f "$keep/parts" ] || { echo "part 1 is missing: it says how many there are"; exit 3; }
want=$(cat "$keep/parts")
have=$(ls "$keep" | grep -c '^site\.tar\.xz\.' || true)
if [ "$have" -lt "$want" ]; then
    echo "$have of $want parts are here"
    exit 3
fi
mkdir -p "$site"
cat "$keep"/site.tar.xz.* | python3 -c '
import lzma, sys, tarfile
with lzma.open(sys.stdin.buffer) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
    tar.extractall(sys.argv[1], filter="data")
' "$site"
touch "$site/.complete"
echo "unpacked into $site"
