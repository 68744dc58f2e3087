# shellcheck shell=bash disable=SC2154
# Everything goes, and the bytes with it. After the other cases.

if az sig show -g pictures -r gal >/dev/null 2>&1; then
  for e in 1.0.0 1.0.10; do works "delete version $e" az sig image-version delete -g pictures -r gal -i def -e $e; done
  works 'delete the definition' az sig image-definition delete -g pictures -r gal -i def
  works 'delete the gallery' az sig delete -g pictures -r gal
fi
for group in machines pictures disks; do
  [ "$(az group exists -n $group)" = false ] || works "delete the group $group" az group delete -n $group --yes
done
gives 'nothing is left' '[]' az resource list -o json
stored() { "$lazuli" usage --data-dir "$data" --json | python3 -c 'import json, sys; sys.exit(any(r["disks"] for r in json.load(sys.stdin)))'; }
holds 'no region holds a disk any more' until_true 60 stored
