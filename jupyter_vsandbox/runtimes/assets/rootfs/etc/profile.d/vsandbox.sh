export PATH="/opt/venv/bin:$PATH"
export VIRTUAL_ENV=/opt/venv LANG="${LANG:-C.UTF-8}"
