# shellcheck shell=bash disable=SC2154
# The directory as Terraform's azuread provider asks for it, through the proxy under Azure's own names.

try env -u HTTPS_PROXY LAZULI_CREDENTIALS="$data/credentials.json" python3 "$compat/graph_client.py" || true
said=$err
while IFS= read -r line; do
  case $line in
    'ok   '*) ok "terraform: ${line#ok   }" ;;
    'FAIL '*) no "terraform: ${line#FAIL }" ;;
  esac
done <<< "$out"
holds 'all requests of the provider were made' grep -q 'the application is gone' <<< "$out"
[ -z "$said" ] || printf '%s\n' "$said" | tail -n 5
