#!/bin/sh
# A runner for tests of the agent: honours the contract without a trainer behind it.
#   runner.sh ok IN OUT LINES DELAY   write numbered lines, then succeed
#   runner.sh held IN OUT             write numbered lines until there is a file OUT/go, then succeed
#   runner.sh devices IN OUT          write down which GPUs it may see, then as held
#   runner.sh copy IN OUT             give the input file "big" back as a model
#   runner.sh sleep IN OUT SECONDS    do nothing for a while; SIGTERM ends it with 143
#   runner.sh stubborn IN OUT         ignore SIGTERM
#   runner.sh family IN OUT           start descendants that leave the group, then sleep
#   runner.sh leave IN OUT            leave descendants behind and end
#   runner.sh vanish IN OUT           stop whoever started it, and go on under no known name
#   runner.sh crash IN OUT CODE       end without a verdict
#   runner.sh eat IN OUT              use memory until something ends it
#   runner.sh look IN OUT             write down what the process may and may not do
#   runner.sh fill IN OUT             leave a lie, stop the runner, and write on: 80 MiB a second
#   runner.sh hide IN OUT             the same, into a file that has no name any more
#   runner.sh litter IN OUT           the same, in more files than anybody needs
#   runner.sh dig IN OUT DEPTH        the same, in folders inside each other
#   runner.sh hang IN OUT             stop the runner and do nothing
#   runner.sh prepare IN OUT          fill the cache, and write down what is there
set -u
scenario=$1 in=$2 out=$3
shift 3
say() { echo "$*" >>"$out/console.log"; }
entry() { # path
  sum=$(sha256sum "$out/$1" | cut -d' ' -f1)
  size=$(wc -c <"$out/$1" | tr -d ' ')
  printf '{"path":"%s","sha256":"%s","size":%s}' "$1" "$sum" "$size"
}
verdict() { # exit code, outcome, class, files...
  code=$1 outcome=$2 class=$3
  shift 3
  list=""
  for file in "$@"; do
    list="$list${list:+,}$(entry "$file")"
  done
  printf '{"contract":1,"exit_code":%s,"outcome":"%s","class":"%s","reason":null,"files":[%s]}' \
    "$code" "$outcome" "$class" "$list" >"$out/verdict.json.part"
  mv "$out/verdict.json.part" "$out/verdict.json"
  exit "$code"
}
aborted() {
  say "aborted"
  verdict 143 failed aborted console.log
}
# What submitted code does that wants to write on: its runner will not see to its limits.
leave_nobody_in_charge() {
  say "nobody is in charge"
  printf '{"contract":1,"exit_code":0,"outcome":"succeeded","class":"ok","reason":null,"files":[]}' \
    >"$out/verdict.json"
  kill -STOP $$
}
case $scenario in
fill)
  (
    leave_nobody_in_charge
    while :; do
      dd if=/dev/zero bs=1M count=8 2>/dev/null >>"$out/fill"
      sleep 0.1
    done
  ) &
  wait
  ;;
hide)
  (
    leave_nobody_in_charge
    exec 3>"$out/hidden"
    rm "$out/hidden"
    while :; do
      dd if=/dev/zero bs=1M count=8 2>/dev/null >&3
      sleep 0.1
    done
  ) &
  wait
  ;;
litter)
  (
    leave_nobody_in_charge
    digits="0 1 2 3 4 5 6 7 8 9" names=""
    for a in $digits; do for b in $digits; do for c in $digits; do
      names="$names $a$b$c"
    done; done; done
    i=0
    while :; do
      mkdir "$out/litter-$i" && cd "$out/litter-$i" || exit 1
      touch $names
      i=$((i + 1))
    done
  ) &
  wait
  ;;
dig)
  (
    leave_nobody_in_charge
    cd "$out" || exit 1
    i=0
    while [ "$i" -lt "$1" ]; do
      mkdir d && cd d || exit 1
      i=$((i + 1))
    done
    while :; do sleep 1; done
  ) &
  wait
  ;;
hang)
  leave_nobody_in_charge
  ;;
prepare)
  say "prepares with $(ls "$in" | tr '\n' ' ')"
  say "interfaces $(ls /sys/class/net | tr '\n' ' ')"
  say "uid $(id -u)"
  echo "made of $(cat "$in/elnigma/requirements.txt")" >"$TOUCHSTONE_CACHE/made"
  ls "$in" >"$TOUCHSTONE_CACHE/seen"
  [ -z "${TOUCHSTONE_SLOW:-}" ] || sleep "$TOUCHSTONE_SLOW"
  verdict 0 succeeded ok console.log
  ;;
ok)
  trap aborted TERM
  mkdir -p "$out/models"
  i=1
  while [ "$i" -le "$1" ]; do
    say "line $i of $1"
    printf '{"t":0,"phase":"fit","percent":%s,"eta_s":1,"metrics":{"loss":0.5}}\n' \
      $((100 * i / $1)) >>"$out/progress.jsonl"
    [ "$2" = 0 ] || sleep "$2"
    i=$((i + 1))
  done
  echo "long of $TOUCHSTONE_SUBMISSION_ID" >"$out/models/long.h5"
  echo "short of $TOUCHSTONE_SUBMISSION_ID" >"$out/models/short.h5"
  echo '{"contract":1}' >"$out/result.json"
  verdict 0 succeeded ok models/long.h5 models/short.h5 result.json console.log
  ;;
held)
  trap aborted TERM
  i=0
  while [ ! -e "$out/go" ]; do
    i=$((i + 1))
    say "line $i"
    sleep 0.1
  done
  verdict 0 succeeded ok console.log
  ;;
devices)
  trap aborted TERM
  say "CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-not set}"
  say "NVIDIA_VISIBLE_DEVICES=${NVIDIA_VISIBLE_DEVICES-not set}"
  say "TOUCHSTONE_CUDA=${TOUCHSTONE_CUDA-not set}"
  say "TOUCHSTONE_GPU_SHARE=${TOUCHSTONE_GPU_SHARE-not set}"
  while [ ! -e "$out/go" ]; do sleep 0.1; done
  verdict 0 succeeded ok console.log
  ;;
copy)
  mkdir -p "$out/models"
  cp "$in/big" "$out/models/long.h5"
  say "copied"
  verdict 0 succeeded ok models/long.h5 console.log
  ;;
sleep)
  trap aborted TERM
  say "sleeping"
  i=0
  while [ "$i" -lt "$1" ]; do
    sleep 1 &
    wait $!
    i=$((i + 1))
  done
  verdict 0 succeeded ok console.log
  ;;
stubborn)
  trap '' TERM
  say "stubborn"
  while :; do sleep 1; done
  ;;
family)
  setsid sh -c 'trap "" TERM; sleep 300' &
  (setsid sh -c 'sleep 301' &)
  say "family"
  sleep 302
  ;;
vanish)
  while [ ! -e "$out/../process.json" ]; do sleep 0.05; done
  kill -STOP "$PPID"
  (env -i PATH="$PATH" setsid sh -c "echo \$\$ >'$out/pid'; exec sleep 305" &)
  sleep 306
  ;;
leave)
  setsid sh -c 'trap "" TERM; sleep 303' &
  (sh -c 'sleep 304' &)
  exit 5
  ;;
crash)
  echo "it went wrong before there was a console"
  exit "$1"
  ;;
eat)
  say "eating"
  exec tail /dev/zero
  ;;
look)
  say "uid $(id -u)"
  (echo x >/written) 2>/dev/null && say "root is writable" || say "root is read-only"
  (echo x >"$in/written") 2>/dev/null && say "in is writable" || say "in is read-only"
  (echo x >/tmp/written) 2>/dev/null && say "tmp is writable" || say "tmp is read-only"
  say "interfaces $(ls /sys/class/net | tr '\n' ' ')"
  say "home $HOME"
  cache=${TOUCHSTONE_CACHE:-}
  if [ -z "$cache" ]; then say "no cache"; else
    (echo kept >"$cache/written") 2>/dev/null && say "cache is writable" || say "cache is read-only"
    [ ! -r "$cache/made" ] || say "cache is $(cat "$cache/made")"
  fi
  say "$(grep CapEff /proc/self/status)"
  say "$(grep NoNewPrivs /proc/self/status)"
  say "content $(cat "$in/content/train.py")"
  verdict 0 succeeded ok console.log
  ;;
esac
