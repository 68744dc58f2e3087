# shellcheck shell=bash disable=SC2154
# Storage accounts: their blobs with az, azcopy and azure-storage-blob; a VHD as a page blob comes back with equal bytes.

endpoint=$(credential armEndpoint)
bytes=$(stat -c %s "$tiny") digest=$(sha256sum < "$tiny")
sum() { sha256sum < "$1"; }
works 'group of the account' az group create -n blobs -l eastus
works 'create an account' az storage account create -g blobs -n lzblobs -l eastus --sku Standard_LRS --kind StorageV2
works 'its key' az storage account keys list -g blobs -n lzblobs --query '[0].value' -o tsv
key=$out
blob=$endpoint/lzblobs
by_key=(--account-name lzblobs --account-key "$key" --blob-endpoint "$blob")

gives 'create a container' true az storage container create -n vhds "${by_key[@]}" --query created -o tsv
gives 'it is there' vhds az storage container list "${by_key[@]}" --query '[].name' -o tsv
works 'upload a VHD as a page blob' az storage blob upload -c vhds -n tiny.vhd -f "$tiny" --type page "${by_key[@]}" --no-progress
gives 'its length' "$bytes" az storage blob show -c vhds -n tiny.vhd "${by_key[@]}" --query properties.contentLength -o tsv
works 'download it' az storage blob download -c vhds -n tiny.vhd -f "$work/tiny.back" "${by_key[@]}" --no-progress
gives 'the same SHA-256' "$digest" sum "$work/tiny.back"
works 'upload it as a block blob' az storage blob upload -c vhds -n sub/block.vhd -f "$tiny" --type block "${by_key[@]}" --no-progress
gives 'list both' 'sub/block.vhd tiny.vhd' sh -c 'az storage blob list -c vhds "$@" --query "[].name" -o tsv | xargs' - "${by_key[@]}"
gives 'copy within the account' success \
  az storage blob copy start --source-container vhds --source-blob tiny.vhd --destination-container vhds --destination-blob copy.vhd \
  "${by_key[@]}" --query copy_status -o tsv
works 'snapshot' az storage blob snapshot -c vhds -n copy.vhd "${by_key[@]}"
refuses 'a blob with snapshots stays' 'SnapshotsPresent' az storage blob delete -c vhds -n copy.vhd "${by_key[@]}"
works 'lease it' az storage blob lease acquire -b copy.vhd -c vhds --lease-duration -1 "${by_key[@]}" -o tsv
lease=$out
refuses 'the lease keeps others out' 'LeaseIdMissing' az storage blob delete -c vhds -n copy.vhd --delete-snapshots include "${by_key[@]}"
works 'its holder may' az storage blob delete -c vhds -n copy.vhd --delete-snapshots include --lease-id "$lease" "${by_key[@]}"
gives 'with the token of the login' tiny.vhd \
  az storage blob list -c vhds --prefix tiny --account-name lzblobs --blob-endpoint "$blob" --auth-mode login --query '[].name' -o tsv

expiry=$(date -u -d '+1 hour' +%Y-%m-%dT%H:%MZ)
works 'a SAS of the container' az storage container generate-sas -n vhds --permissions racwdl --expiry "$expiry" "${by_key[@]}" -o tsv
sas=$out
works 'azcopy uploads a page blob' azcopy copy "$tiny" "$blob/vhds/azcopy.vhd?$sas" --from-to LocalBlob --blob-type PageBlob --output-level essential
works 'azcopy uploads a block blob' azcopy copy "$tiny" "$blob/vhds/azcopy.bin?$sas" --from-to LocalBlob --blob-type BlockBlob --block-size-mb 4 --put-md5 --output-level essential
for name in azcopy.vhd azcopy.bin; do
  works "azcopy downloads $name" azcopy copy "$blob/vhds/$name?$sas" "$work/$name" --from-to BlobLocal --output-level essential
  gives "$name has the same SHA-256" "$digest" sum "$work/$name"
done
proxy=$(credential proxyEndpoint)
works 'azcopy through the proxy, by the native name' env -u NO_PROXY HTTPS_PROXY="$proxy" \
  azcopy copy "https://lzblobs.blob.core.windows.net/vhds/azcopy.vhd?$sas" "$work/native" --from-to BlobLocal --output-level essential
gives 'the same SHA-256 through the proxy' "$digest" sum "$work/native"
gives 'a SAS for another container is refused' 403 \
  curl -sS -o /dev/null -w '%{http_code}' --cacert "$data/ca.pem" -X PUT -H 'x-ms-version: 2021-12-02' -H 'x-ms-blob-type: PageBlob' \
  -H 'x-ms-blob-content-length: 512' -H 'Content-Length: 0' "$blob/other/x.vhd?$sas"
gives 'nobody may read it' 409 \
  curl -sS -o /dev/null -w '%{http_code}' --cacert "$data/ca.pem" -H 'x-ms-version: 2021-12-02' "$blob/vhds/tiny.vhd"

gives 'azure-storage-blob: every kind of blob, signatures, lists' ok \
  python-sdk "$compat/storage_sdk.py" "$endpoint" lzblobs "$key" "$tiny" "$data/credentials.json"
gives '@azure/storage-blob: every kind of blob, signatures, lists' ok \
  node-sdk "$compat/storage_sdk.mjs" "$endpoint" lzblobs "$key" "$tiny"

# azcopy with the token of a login: by the native name, the only one to which it sends one.
login=(env -u NO_PROXY HTTPS_PROXY="$proxy" AZCOPY_AUTO_LOGIN_TYPE=SPN AZCOPY_TENANT_ID="$AZURE_TENANT_ID"
  AZCOPY_SPA_APPLICATION_ID="$AZURE_CLIENT_ID" AZCOPY_SPA_CLIENT_SECRET="$AZURE_CLIENT_SECRET")
works 'azcopy uploads as who signed in' "${login[@]}" \
  azcopy copy "$tiny" 'https://lzblobs.blob.core.windows.net/vhds/login.vhd' --from-to LocalBlob --blob-type PageBlob --output-level essential
works 'azcopy downloads as who signed in' "${login[@]}" \
  azcopy copy 'https://lzblobs.blob.core.windows.net/vhds/login.vhd' "$work/login.vhd" --from-to BlobLocal --output-level essential
gives 'the same SHA-256 by a token' "$digest" sum "$work/login.vhd"

rm=(-g blobs --storage-account lzblobs)
gives 'container-rm: a new container' None az storage container-rm create -n managed "${rm[@]}" --metadata by=arm --query publicAccess -o tsv
gives 'the data plane has it' arm az storage container metadata show -n managed "${by_key[@]}" --query by -o tsv
gives 'container-rm lists what the data plane made' 'managed vhds' \
  sh -c 'az storage container-rm list "$@" --query "[].name" -o tsv | xargs' - "${rm[@]}"
gives 'container-rm shows one' Available az storage container-rm show -n vhds "${rm[@]}" --query leaseState -o tsv
gives 'container-rm knows what is there' true az storage container-rm exists -n managed "${rm[@]}" --query exists -o tsv
works 'container-rm update' az storage container-rm update -n managed "${rm[@]}" --metadata by=az
works 'container-rm delete' az storage container-rm delete -n managed "${rm[@]}" --yes
gives 'and what is not' false az storage container-rm exists -n managed "${rm[@]}" --query exists -o tsv
refuses 'one that is gone is not found' 'ContainerNotFound' az storage container-rm show -n managed "${rm[@]}"

works 'delete the container' az storage container delete -n vhds "${by_key[@]}"
works 'delete the account' az storage account delete -g blobs -n lzblobs --yes
gives 'its blobs are gone' 404 curl -sS -o /dev/null -w '%{http_code}' --cacert "$data/ca.pem" "$blob/vhds/tiny.vhd?$sas"
works 'delete the group of the account' az group delete -n blobs --yes
