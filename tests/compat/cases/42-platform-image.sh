# shellcheck shell=bash disable=SC2154
# Platform images: published by the operator, listed by az, used by name.

publish() { "$lazuli" image publish --data-dir "$data" --publisher Lazuli --offer tiny --sku gen2 --generation V2 "$@"; }
works 'publish a VHD in two regions' publish --version 1.0.9 --location eastus,westus2 "$tiny"
holds 'its progress is JSON lines' python3 -c 'import json, sys; [json.loads(l) for l in sys.argv[1].splitlines()]' "$out"
qemu-img convert -f vpc -O qcow2 "$tiny" "$work/tiny.qcow2"
works 'publish a qcow2' publish --version 1.0.10 --location eastus --sha256 "$(sha256sum "$work/tiny.qcow2" | cut -d' ' -f1)" "$work/tiny.qcow2"
qemu-img create -q -f qcow2 -F raw -b "$tiny" "$work/backed.qcow2"
refuses 'a qcow2 that names another file' 'backing file' publish --version 1.0.11 --location eastus "$work/backed.qcow2"
refuses 'a wrong checksum' 'SHA-256' publish --version 1.0.11 --location eastus --sha256 "$(printf '0%.0s' {1..64})" "$tiny"
refuses 'a version twice' 'published already' publish --version 1.0.9 --location eastus "$tiny"

gives 'publishers, that of extensions too' 'Lazuli Microsoft.Azure.Extensions' \
  sh -c "az vm image list-publishers -l eastus --query '[].name' -o tsv | xargs"
gives 'offers' tiny az vm image list-offers -l eastus -p Lazuli --query '[].name' -o tsv
gives 'SKUs' gen2 az vm image list-skus -l eastus -p Lazuli -f tiny --query '[].name' -o tsv
gives 'versions by number' '1.0.9 1.0.10' \
  sh -c "az vm image list --all -l eastus -p Lazuli --query '[].version' -o tsv | xargs"
gives 'the other region has one' 1.0.9 az vm image list --all -l westus2 -p Lazuli --query '[].version' -o tsv
gives 'the newest' '1.0.10 V2 Linux' \
  sh -c "az vm image show -l eastus --urn Lazuli:tiny:gen2:latest --query '[name, hyperVGeneration, osDiskImage.operatingSystem]' -o tsv | xargs"
refuses 'none of that name' 'VMImage was not found' az vm image list-skus -l eastus -p Lazuli -f none
gives 'what the operator sees' '1.0.9 1.0.10' \
  sh -c "'$lazuli' image list --data-dir '$data' --json | python3 -c 'import json, sys; print(*[i[\"name\"].rsplit(\":\")[-1] for i in json.load(sys.stdin)])'"
for v in 1.0.9 1.0.10; do works "unpublish $v" "$lazuli" image unpublish --data-dir "$data" "Lazuli:tiny:gen2:$v"; done
gives 'no image is published' Microsoft.Azure.Extensions az vm image list-publishers -l eastus --query '[].name' -o tsv
