#!/bin/sh
# Votes twelve times, as twelve different people: seven for one side, five for the other.
set -eu
n=0
for side in a a a a a a a b b b b b; do
	n=$((n + 1))
	curl -fsS -o /dev/null -b "voter_id=seed-$n" -d "vote=$side" http://vote/
done
echo "voted $n times"
