# shellcheck shell=bash disable=SC2154,SC2016
# The samples of the article on image definitions and versions, as it prints them, against AzureChinaCloud; and what its traps end
# with. Its placeholders stand for: group myGalleryRG and gallery myGallery in China North. Where it takes a machine as the source,
# a disk is taken here, which its table of sources has as well. PowerShell's samples send the same requests as the REST ones.

china() {
  env -i PATH="$PATH" HOME="$work/home" AZURE_CORE_COLLECT_TELEMETRY=false \
    bash -c "eval \"\$('$lazuli' env --data-dir '$data' --proxy --cloud AzureChinaCloud)\" && exec \"\$@\"" bash "$@"
}
# rest PATH BODY: PUT as a REST client sends it, commas and all; prints `status state-or-code message`.
rest() {
  china curl -sS -o "$work/answer" -w '%{http_code} ' --proxy "$(credential proxyEndpoint)" --cacert "$data/ca.pem" -X PUT \
    -H "Authorization: Bearer $token" -H 'Content-Type: application/json' --data-binary "$2" "https://management.chinacloudapi.cn$1"
  python3 -c 'import json, sys
body = json.load(open(sys.argv[1])); error = body.get("error") or {}
print(error.get("code") or body["properties"]["provisioningState"], error.get("message", ""))' "$work/answer"
}

mkdir -p "$work/home"
works 'group' china az group create -n myGalleryRG -l chinanorth
works 'gallery' china az sig create -g myGalleryRG -r myGallery
works 'a disk as the source' china az disk create -g myGalleryRG -n source -l chinanorth --size-gb 1 --os-type Linux --hyper-v-generation V2
compute=/subscriptions/$subscription/resourceGroups/myGalleryRG/providers/Microsoft.Compute
base=$compute/galleries/myGallery/images
token=$(china az account get-access-token --query accessToken -o tsv)

gives 'the sample that creates a definition: az asks for Gen2 (T8)' 'Specialized Linux V2' china az sig image-definition create \
  --resource-group myGalleryRG \
  --gallery-name myGallery \
  --gallery-image-definition myImageDefinition \
  --publisher myPublisher \
  --offer myOffer \
  --sku mySKU \
  --os-type Linux \
  --os-state specialized --query "join(' ', [osState, osType, hyperVGeneration])" -o tsv
version=(az sig image-version create
  --resource-group myGalleryRG
  --gallery-name myGallery
  --gallery-image-definition myImageDefinition
  --gallery-image-version 1.0.0)
refuses 'the sample that creates a version names chinaeast twice (T2)' 'Duplicate regions are not allowed in target publishing regions' \
  china "${version[@]}" --target-regions "chinaeast" "chinaeast=1" "chinaeast2=1=premium_lrs" --replica-count 2 \
  --managed-image "$compute/virtualMachines/myVM"
works 'as its text means it' china "${version[@]}" \
  --target-regions "chinanorth" "chinaeast=1" "chinaeast2=1=premium_lrs" --replica-count 2 --os-snapshot "$compute/disks/source"
regions() {
  china az sig image-version show -g myGalleryRG -r myGallery -i myImageDefinition -e 1.0.0 \
    --query 'sort_by(publishingProfile.targetRegions, &name)[].join(`:`, [name, to_string(regionalReplicaCount), storageAccountType])' \
    -o tsv | xargs -d '\n'
}
gives 'the default of 2 replicas, and the own of two regions (T2, T3, RP-1)' \
  'China East:1:Standard_LRS China East 2:1:Premium_LRS China North:2:Standard_LRS' regions
works 'the sample of two tenants, in one: a version of a version, without target regions' china az sig image-version create \
  --gallery-image-definition myImageDefinition --gallery-image-version 2.0.0 --gallery-name myGallery --resource-group myGalleryRG \
  --image-version "$base/myImageDefinition/versions/1.0.0" --location chinanorth

definition='{
"location": "chinaeast2",
"properties": {
"hyperVGeneration": "V1",
"identifier": {
"offer": "myOffer",
"publisher": "myPublisher",
"sku": "mySKU"
},
"osState": "Specialized",
"osType": "Linux",
},
}'
gives 'the REST definition has the identifier of the first' \
  "409 Conflict Gallery image: myImageDefinition identified by (publisher:myPublisher, offer:myOffer, sku:mySKU) already exists. Choose a different publisher, offer, sku combination." \
  rest "$base/byRest?api-version=2019-12-01" "$definition"
works 'group of its own' china az group create -n myRestRG -l chinaeast2
works 'gallery of its own' china az sig create -g myRestRG -r myRestGallery
base=${base/myGalleryRG/myRestRG}; base=${base/myGallery/myRestGallery}
created=$(rest "$base/byRest?api-version=2019-12-01" "$definition")
holds 'the REST sample that creates a definition, trailing commas and all (T5, CL-5, CL-6)' grep -qE '^201 (Creating|Succeeded)' <<< "$created"
gives 'the REST sample that creates a version has its end of life in the past (T4)' \
  '400 InvalidParameter EndOfLifeDate must be set to a future date.' rest "$base/byRest/versions/1.0.0?api-version=2019-12-01" '{
"location": "chinanorth2",
"properties": {
"publishingProfile": {
"endOfLifeDate": "2024-12-02T00:00:00+00:00",
"replicaCount": 1,
"storageAccountType": "Standard_LRS",
"targetRegions": [
{
"name": "chinaeast",
"regionalReplicaCount": 2,
"storageAccountType": "Standard_LRS",
},
{
"name": "chinanorth2",
}
]
},
"storageProfile": {
"source": {
"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm"
}
}
}
}'
for group in myGalleryRG myRestRG; do works "delete the group $group" az group delete -n $group --yes; done
