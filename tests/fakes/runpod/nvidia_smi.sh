#!/bin/sh
# What nvidia-smi says in an emulated pod; the file it reads is the hardware.
COUNT=0 NAME= MEMORY=0 DRIVER=
for file in "${FAKE_GPU_FILE:-}" /run/emulator/gpu.env "$(dirname "$0")/../gpu.env"; do
  if [ -r "$file" ]; then . "$file"; break; fi
done
if [ "$COUNT" -eq 0 ]; then
  echo "No devices were found" >&2
  exit 6
fi
fields= header=no units=yes
for argument in "$@"; do
  case $argument in
    -L | --list-gpus) index=0
      while [ "$index" -lt "$COUNT" ]; do
        echo "GPU $index: $NAME (UUID: GPU-00000000-0000-0000-0000-00000000000$index)"
        index=$((index + 1))
      done
      exit 0 ;;
    --query-gpu=*) fields=${argument#--query-gpu=} ;;
    --format=*)
      case $argument in *noheader*) ;; *) header=yes ;; esac
      case $argument in *nounits*) units=no ;; esac ;;
  esac
done
if [ -z "$fields" ]; then
  echo "| NVIDIA-SMI $DRIVER    Driver Version: $DRIVER    CUDA Version: 12.8 |"
  echo "|   0  $NAME   0MiB / ${MEMORY}MiB   0%   Default |"
  exit 0
fi
[ "$header" = no ] || echo "$fields" | sed 's/,/, /g'
with_unit() { if [ "$units" = yes ]; then echo "$1 $2"; else echo "$1"; fi; }
index=0
while [ "$index" -lt "$COUNT" ]; do
  line=
  for field in $(echo "$fields" | tr ',' ' '); do
    case $field in
      index) value=$index ;;
      count) value=$COUNT ;;
      name | gpu_name) value=$NAME ;;
      uuid | gpu_uuid) value=GPU-00000000-0000-0000-0000-00000000000$index ;;
      driver_version) value=$DRIVER ;;
      memory.total) value=$(with_unit "$MEMORY" MiB) ;;
      memory.free) value=$(with_unit "$MEMORY" MiB) ;;
      memory.used) value=$(with_unit 0 MiB) ;;
      utilization.gpu | utilization.memory) value=$(with_unit 0 %) ;;
      power.draw) value=$(with_unit 60.00 W) ;;
      temperature.gpu) value=40 ;;
      compute_cap) value=8.6 ;;
      *) echo "Field \"$field\" is not a valid field to query." >&2; exit 2 ;;
    esac
    if [ -z "$line" ]; then line=$value; else line="$line, $value"; fi
  done
  echo "$line"
  index=$((index + 1))
done
