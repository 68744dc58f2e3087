# shellcheck shell=bash disable=SC2154
# Disks: direct upload with azcopy, download with equal bytes, bad uploads.

bytes=$(stat -c %s "$tiny")
works 'group of the disks' az group create -n disks -l eastus
gives 'create a disk to upload to' ReadyToUpload \
  az disk create -g disks -n golden -l eastus --upload-type Upload --upload-size-bytes "$bytes" --os-type Linux \
  --hyper-v-generation V2 --sku Standard_LRS --query diskState -o tsv
works 'grant writing' az disk grant-access -g disks -n golden --access-level Write --duration-in-seconds 3600 --query accessSAS -o tsv
sas=$out
gives 'the disk is being uploaded to' ActiveUpload az disk show -g disks -n golden --query diskState -o tsv
works 'upload with azcopy' azcopy copy "$tiny" "$sas" --from-to LocalBlob --blob-type PageBlob --output-level essential
works 'end the upload' az disk revoke-access -g disks -n golden
gives 'the disk is whole' Unattached az disk show -g disks -n golden --query diskState -o tsv
gives 'its size is the VHD without its footer' $((bytes - 512)) az disk show -g disks -n golden --query diskSizeBytes -o tsv
gives 'the URL is dead' 403 \
  curl -sS -o "$work/dead" -w '%{http_code}' --cacert "$data/ca.pem" -H 'x-ms-version: 2021-12-02' "$sas"

works 'grant reading' az disk grant-access -g disks -n golden --access-level Read --duration-in-seconds 3600 --query accessSAS -o tsv
sas=$out
works 'download with azcopy' azcopy copy "$sas" "$work/back.vhd" --from-to BlobLocal --output-level essential
gives 'it is a VHD of the same size' "$bytes" stat -c %s "$work/back.vhd"
sum() { head -c $((bytes - 512)) "$1" | sha256sum; }
gives 'the disk has the same SHA-256' "$(sum "$tiny")" sum "$work/back.vhd"
gives 'its footer is one of a fixed VHD' 'conectix 2' \
  python3 -c 'import sys; f = open(sys.argv[1], "rb").read()[-512:]; print(f[:8].decode(), int.from_bytes(f[60:64], "big"))' "$work/back.vhd"
works 'end reading' az disk revoke-access -g disks -n golden

works 'a disk for the SDK' az disk create -g disks -n sdk -l eastus --upload-type Upload --upload-size-bytes "$bytes" --sku Standard_LRS
works 'grant writing to it' az disk grant-access -g disks -n sdk --access-level Write --duration-in-seconds 3600 --query accessSAS -o tsv
works 'azure-storage-blob uploads and reads back the same bytes' python-sdk "$compat/blob_sdk.py" "$out" "$tiny"
works 'end its upload' az disk revoke-access -g disks -n sdk

# A footer that is none.
cp --sparse=always "$tiny" "$work/bad.vhd"
printf 'notavhd!' | dd of="$work/bad.vhd" bs=1 seek=$((bytes - 512)) conv=notrunc status=none
works 'a disk for a bad VHD' az disk create -g disks -n bad -l eastus --upload-type Upload --upload-size-bytes "$bytes" --sku Standard_LRS
works 'grant writing to it' az disk grant-access -g disks -n bad --access-level Write --duration-in-seconds 3600 --query accessSAS -o tsv
sas=$out
works 'upload the bad VHD' azcopy copy "$work/bad.vhd" "$sas" --from-to LocalBlob --blob-type PageBlob --output-level essential
refuses 'the end of the upload refuses it' 'InvalidVhd|cookie' az disk revoke-access -g disks -n bad
refuses 'a size that is not whole MiB and a footer is refused' 'uploadSizeBytes|InvalidParameter|size' \
  az disk create -g disks -n odd -l eastus --upload-type Upload --upload-size-bytes 1000000 --sku Standard_LRS
refuses 'an unknown location is refused' 'LocationNotAvailableForResourceType|location' \
  az disk create -g disks -n odd -l atlantis --size-gb 1

gives 'an empty disk' Succeeded az disk create -g disks -n empty -l eastus --size-gb 4 --query provisioningState -o tsv
gives 'list them' 'bad empty golden sdk' sh -c "az disk list -g disks --query 'sort_by([], &name)[].name' -o tsv | xargs"
gives 'a copy of the first' Succeeded az disk create -g disks -n copy -l eastus --source golden --query provisioningState -o tsv
works 'delete one' az disk delete -g disks -n empty --yes
refuses 'it is gone' 'ResourceNotFound' az disk show -g disks -n empty
