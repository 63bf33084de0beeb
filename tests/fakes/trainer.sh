#!/bin/sh
# A trainer for tests of what is around it: takes el-nigma's arguments, honours the contract, and
# behaves as the arguments behind -- say:
#   seconds=N   take so long            exit=CODE   end with that code and its class
#   eat=MIB     need so much memory     first-exit=CODE   the same, in the first attempt only
#   until=NAME  go on until there is a file of that name in OUT
#   gpu=PERCENT have used so much of a GPU        first-blind   see none, in the first attempt only
# A validation has no such arguments: what it comes to is in the module's file "exit".
set -u
command=$1
shift
out= module= interval= seconds=0 code=0 eat=0 first_only= until= gpu= blind=
while [ $# -gt 0 ]; do
  case $1 in
  --out) out=$2 && shift ;;
  --module) module=$2 && shift ;;
  --prediction-interval) interval=$2 && shift ;;
  seconds=*) seconds=${1#*=} ;;
  eat=*) eat=${1#*=} ;;
  until=*) until=${1#*=} ;;
  gpu=*) gpu=${1#*=} ;;
  first-blind) blind=1 ;;
  exit=*) code=${1#*=} ;;
  first-exit=*) code=${1#*=} first_only=1 ;;
  esac
  shift
done
attempt=${TOUCHSTONE_ATTEMPT%%-*}
if [ -n "$first_only" ] && [ "$attempt" != 1 ]; then code=0; fi

say() { echo "$*" >>"$out/console.log"; }
entry() { # path
  printf '{"path":"%s","sha256":"%s","size":%s}' "$1" \
    "$(sha256sum "$out/$1" | cut -d' ' -f1)" "$(wc -c <"$out/$1" | tr -d ' ')"
}
verdict() { # exit code, outcome, class, reason (JSON), files...
  code=$1 outcome=$2 class=$3 reason=$4
  shift 4
  list=""
  for file in "$@"; do
    list="$list${list:+,}$(entry "$file")"
  done
  usage=null
  if [ -n "$gpu" ]; then
    usage=$(printf '{"gpu":{"name":"a GPU","mean_utilisation_percent":%s}}' "$gpu")
  fi
  printf '{"contract":1,"exit_code":%s,"outcome":"%s","class":"%s","reason":%s,"usage":%s,"files":[%s]}' \
    "$code" "$outcome" "$class" "$reason" "$usage" "$list" >"$out/verdict.json.part"
  mv "$out/verdict.json.part" "$out/verdict.json"
  exit "$code"
}
aborted() {
  say "aborted"
  verdict 143 failed aborted '"it was told to end"' console.log
}
trap aborted TERM

say "$command, attempt $TOUCHSTONE_ATTEMPT"
if [ "$command" = validate ]; then
  if [ -r "$module/exit" ]; then
    verdict "$(cat "$module/exit")" failed submission '"submission: it is wrong"' console.log
  fi
  verdict 0 succeeded ok null console.log
fi
if [ -n "$blind" ] && [ "$attempt" = 1 ]; then
  verdict 75 failed device '"no GPU: JAX sees none"' console.log
fi
if [ "$eat" != 0 ]; then
  # In a file of /tmp, which is memory of this container, up to half of what it may use.
  dd if=/dev/zero of=/tmp/eaten bs=1M count="$eat" 2>/dev/null || verdict 137 failed oom '"out of memory"' console.log
fi
i=0
while [ "$i" -lt "$seconds" ]; do
  sleep 1 &
  wait $!
  i=$((i + 1))
done
while [ -n "$until" ] && [ ! -e "$out/$until" ]; do
  sleep 0.2 &
  wait $!
done
case $code in
0) ;;
2) verdict 2 failed config '"config: no such key"' console.log ;;
3) verdict 3 failed submission '"submission: it is wrong"' console.log ;;
4) verdict 4 failed diverged '"diverged: the loss is not a number"' console.log ;;
75) verdict 75 failed temporary '"temporary: try elsewhere"' console.log ;;
137) verdict 137 failed oom '"out of memory"' console.log ;;
*) verdict "$code" failed unknown '"unknown: it raised"' console.log ;;
esac
mkdir -p "$out/models"
echo "long $interval" >"$out/models/long.h5"
echo "short $interval" >"$out/models/short.h5"
long=$(entry models/long.h5) short=$(entry models/short.h5)
printf '{"contract":1,"submission_id":"%s","task_id":"%s","prediction_interval":%s,"metrics":{"net_sharpe":0.5},"params":{},"versions":{},"data":{},"seed":0,"files":[%s,%s]}' \
  "$TOUCHSTONE_SUBMISSION_ID" "$TOUCHSTONE_TASK_ID" "$interval" "$long" "$short" \
  >"$out/result.json"
verdict 0 succeeded ok null models/long.h5 models/short.h5 result.json console.log
