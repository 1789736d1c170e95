#!/usr/bin/env bash
# The long form of what is shown under load: every bad version, twenty rollouts over every protocol, and the planner in
# random worlds whose loop is killed between any two things it does. Prints what was tried, held and lost.
#   SEEDS=20000  random worlds for the planner
#   RUN=...      only the end-to-end tests that match
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp); trap 'rm -f "$log"' EXIT
status=0
go test -count=1 -timeout 30m ./engine/local -run 'TestRolloutsAreFinishedOrUndone|TestPlanConverges|TestRolloutsNeverServeLess|TestDrainsLeaveEnough' \
	-seeds "${SEEDS:-20000}" || status=1
FAULTS=long go test -tags e2e -count=1 -timeout 90m -v ./e2e \
	-run "${RUN:-TestEngine|TestBadVersions|TestRolloutsLoseNothing|TestCanary|TestRolloutOutlives|TestTrellisSurvives|TestKilling|TestHung}" \
	2>&1 | tee "$log" | grep -E '^ *--- |tried|seen after' || true
echo
grep -hoE '[A-Za-z0-9 ]+: [0-9]+ rollouts tried, [0-9]+ requests held, [0-9]+ lost' "$log" || true
echo "bad versions: $(grep -c 'seen after' "$log" || true) tried, $(grep -cE '^ +--- PASS: TestBadVersions' "$log" || true) held"
grep -q '^--- FAIL\|^FAIL' "$log" && status=1
exit $status
