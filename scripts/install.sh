# Sourced by the other scripts: makes sure that this project is installed, once, into the active environment or,
# where none is active, into .venv. The variable `extras` names extras, such as "test", or is empty.

if [ -n "${VIRTUAL_ENV:-}" ]; then
  environment=$VIRTUAL_ENV
elif [ -n "${CONDA_PREFIX:-}" ]; then
  environment=$CONDA_PREFIX
else
  environment=$PWD/.venv
  if [ ! -x .venv/bin/pip ]; then
    echo "making .venv"
    python3 -m venv .venv || { rm -rf .venv; echo "error: no virtual environment could be made; install python3-venv, or activate one" >&2; exit 1; }
  fi
fi
python=$environment/bin/python

# What was installed from which files is noted in the environment; a second call finds the note and installs nothing.
note=$environment/.atari-dt-installed-${extras:-run}
wanted="$PWD $(cat setup.cfg constraints.txt | cksum)"
if [ "$(cat "$note" 2>/dev/null)" != "$wanted" ]; then
  constraints=constraints.txt
  # Keep a PyTorch that is there and new enough: it may be built for this GPU.
  if "$python" -c "import torch; assert tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)" 2>/dev/null; then
    constraints=$(mktemp)
    grep -v '^torch==' constraints.txt > "$constraints"
  fi
  echo "installing into $environment"
  "$python" -m pip install --quiet --constraint "$constraints" --editable ".${extras:+[$extras]}"
  [ "$constraints" = constraints.txt ] || rm -f "$constraints"
  echo "$wanted" > "$note"
fi
