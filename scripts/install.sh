# Install this project into the active virtual environment, or into .venv if none is active. The other scripts source
# this file from the root of the repository. Set `extras` to a list of extras, such as "test", or to nothing.

if [ -n "${VIRTUAL_ENV:-}" ]; then
  environment=$VIRTUAL_ENV
elif [ -n "${CONDA_PREFIX:-}" ]; then
  environment=$CONDA_PREFIX
else
  environment=$PWD/.venv
  if [ ! -x .venv/bin/pip ]; then
    echo "creating the virtual environment .venv"
    python3 -m venv .venv || { rm -rf .venv; echo "error: cannot create a virtual environment; install python3-venv, or activate an environment" >&2; exit 1; }
  fi
fi
python=$environment/bin/python

# A note in the environment says what was installed; if nothing has changed since, there is nothing to do.
note=$environment/.atari-dt-installed-${extras:-run}
wanted="$PWD $(cat setup.cfg constraints.txt | cksum)"
if [ "$(cat "$note" 2>/dev/null)" != "$wanted" ]; then
  constraints=constraints.txt
  # Keep an installed PyTorch that is new enough: it may be built for this machine's GPU.
  if "$python" -c "import torch; assert tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)" 2>/dev/null; then
    constraints=$(mktemp)
    grep -v '^torch==' constraints.txt > "$constraints"
  fi
  echo "installing atari-dt into $environment"
  "$python" -m pip install --quiet --constraint "$constraints" --editable ".${extras:+[$extras]}"
  [ "$constraints" = constraints.txt ] || rm -f "$constraints"
  echo "$wanted" > "$note"
fi
