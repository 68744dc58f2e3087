# shellcheck shell=bash disable=SC2154
# Storage accounts: their names, keys, rules and signatures. What is in them: see the cases of blobs.

works 'group of the accounts' az group create -n accounts -l eastus
gives 'a name that is free' true az storage account check-name -n lzacct1 --query nameAvailable -o tsv
gives 'a name that cannot be' AccountNameInvalid az storage account check-name -n LzAcct1 --query reason -o tsv
gives 'create an account' $'Succeeded\nStandard_LRS\nStorageV2' \
  az storage account create -g accounts -n lzacct1 -l eastus --sku Standard_LRS --query '[provisioningState, sku.name, kind]' -o tsv
gives 'a name that is taken' $'AlreadyExists\nThe storage account named lzacct1 is already taken.' \
  az storage account check-name -n lzacct1 --query '[reason, message]' -o tsv
gives 'create it again' Succeeded az storage account create -g accounts -n lzacct1 -l eastus --sku Standard_LRS --query provisioningState -o tsv
works 'another group' az group create -n accounts2 -l eastus
refuses 'the same name in another group' StorageAccountInAnotherResourceGroup az storage account create -g accounts2 -n lzacct1 -l eastus
refuses 'a data lake is refused' 'OperationNotSupported' az storage account create -g accounts -n lzlake -l eastus --hns true
gives 'show it' "$LAZULI_ENDPOINT/lzacct1/" az storage account show -g accounts -n lzacct1 --query primaryEndpoints.blob -o tsv
gives 'show it by its name alone' eastus az storage account show -n lzacct1 --query primaryLocation -o tsv
gives 'list the accounts of the group' lzacct1 az storage account list -g accounts --query '[].name' -o tsv
gives 'list the accounts of the subscription' lzacct1 az storage account list --query '[].name' -o tsv

gives 'it has two keys' $'key1\nkey2' az storage account keys list -g accounts -n lzacct1 --query '[].keyName' -o tsv
works 'the first of them' az storage account keys list -g accounts -n lzacct1 --query '[0].value' -o tsv
first=$out
works 'renew it' az storage account keys renew -g accounts -n lzacct1 --key primary --query '[0].value' -o tsv
second=$out
holds 'it is another' test "$first" != "$second"
gives 'connection string' \
  "DefaultEndpointsProtocol=https;EndpointSuffix=$(az cloud show --query suffixes.storageEndpoint -o tsv);AccountName=lzacct1;AccountKey=$second;BlobEndpoint=$LAZULI_ENDPOINT/lzacct1/" \
  az storage account show-connection-string -g accounts -n lzacct1 --query connectionString -o tsv

sas_of() { az storage account generate-sas --account-name lzacct1 --services b --resource-types sco --permissions rl --expiry 2099-01-01T00:00Z --https-only "$@" -o tsv; }
works 'a SAS, signed with a key that az looks up' sas_of
looked_up=$out
gives 'the same with the key given' "$looked_up" sas_of --account-key "$second"
holds 'it is an account SAS' grep -q 'ss=b&srt=sco&sig=' <<< "$looked_up"
works 'the server signs one too' az rest --method post --resource "$LAZULI_ENDPOINT" \
  --url "$LAZULI_ENDPOINT/subscriptions/$subscription/resourceGroups/accounts/providers/Microsoft.Storage/storageAccounts/lzacct1/ListAccountSas?api-version=2023-01-01" \
  --body '{"signedServices":"b","signedResourceTypes":"sco","signedPermission":"rl","signedExpiry":"2099-01-01T00:00:00Z"}' --query accountSasToken -o tsv
holds 'it is an account SAS' grep -q '^sv=.*&sig=' <<< "$out"

gives 'change its tags' 1 az storage account update -g accounts -n lzacct1 --tags a=1 --query tags.a -o tsv
gives 'close it to shared keys' false \
  az storage account update -g accounts -n lzacct1 --allow-shared-key-access false --query allowSharedKeyAccess -o tsv
gives 'open it again' true az storage account update -g accounts -n lzacct1 --allow-shared-key-access true --query allowSharedKeyAccess -o tsv
works 'let an address in' az storage account network-rule add -g accounts -n lzacct1 --ip-address 10.1.0.0/16
gives 'list the addresses' 10.1.0.0/16 az storage account network-rule list -g accounts -n lzacct1 --query 'ipRules[].ipAddressOrRange' -o tsv
works 'and no more' az storage account network-rule remove -g accounts -n lzacct1 --ip-address 10.1.0.0/16
gives 'settings of its blobs' false \
  az storage account blob-service-properties show -g accounts -n lzacct1 --query deleteRetentionPolicy.enabled -o tsv
refuses 'versions of blobs are refused' OperationNotSupported \
  az storage account blob-service-properties update -g accounts -n lzacct1 --enable-versioning true

works 'delete it' az storage account delete -g accounts -n lzacct1 --yes
refuses 'it is gone' ResourceNotFound az storage account show -g accounts -n lzacct1
gives 'its name is free' true az storage account check-name -n lzacct1 --query nameAvailable -o tsv
works 'an account that goes with its group' az storage account create -g accounts2 -n lzacct1 -l eastus
works 'delete the group' az group delete -n accounts2 --yes
gives 'its name is free' true az storage account check-name -n lzacct1 --query nameAvailable -o tsv
