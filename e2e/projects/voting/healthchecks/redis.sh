#!/bin/sh
# Healthy is a server that answers, not merely one that runs.
[ "$(redis-cli -h 127.0.0.1 ping)" = PONG ]
