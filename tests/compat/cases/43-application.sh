# shellcheck shell=bash disable=SC2154
# VM applications of a gallery.

app=(-g apps -r appgal -n app1)
works 'group of the applications' az group create -n apps -l eastus
works 'a gallery' az sig create -g apps -r appgal
gives 'an application' Linux az sig gallery-application create "${app[@]}" --os-type Linux --query supportedOSType -o tsv
gives 'its description changes' test az sig gallery-application update "${app[@]}" --description test --query description -o tsv
gives 'list them' app1 az sig gallery-application list -g apps -r appgal --query '[].name' -o tsv
version=(az sig gallery-application version create -g apps -r appgal --application-name app1 --install-command install --remove-command remove)
refuses 'a package elsewhere' 'storage account of this server|nothing is fetched from elsewhere|not supported' \
  "${version[@]}" -n 1.0.0 --package-file-link https://example.org/package.tar
works 'an account for packages' az storage account create -g apps -n lzapppackages -l eastus --sku Standard_LRS
key=$(az storage account keys list -g apps -n lzapppackages --query '[0].value' -o tsv)
by_key=(--account-name lzapppackages --account-key "$key" --blob-endpoint "$(credential armEndpoint)/lzapppackages")
works 'a container' az storage container create -n packages "${by_key[@]}"
echo a package > "$work/package"
works 'a package in it' az storage blob upload -c packages -n package -f "$work/package" --type block "${by_key[@]}" --no-progress
gives 'a version of it' Succeeded "${version[@]}" -n 1.0.0 --package-file-link https://lzapppackages.blob.core.windows.net/packages/package \
  --target-regions '[{"name":"eastus"},{"name":"westus2"}]' --query provisioningState -o tsv
of_version=(-g apps -r appgal --application-name app1 -n 1.0.0)
gives 'show it' 'install remove' \
  sh -c 'az sig gallery-application version show "$@" | xargs' - "${of_version[@]}" --query 'publishingProfile.manageActions.[install, remove]' -o tsv
gives 'list them' 1.0.0 az sig gallery-application version list -g apps -r appgal --application-name app1 --query '[].name' -o tsv
gives 'its tags change' y az sig gallery-application version update "${of_version[@]}" --tags x=y \
  --package-file-link https://lzapppackages.blob.core.windows.net/packages/package --query tags.x -o tsv
refuses 'an application with versions stays' 'CannotDeleteResource|nested' az sig gallery-application delete "${app[@]}" --yes
works 'delete the version' az sig gallery-application version delete "${of_version[@]}" --yes
works 'delete the application' az sig gallery-application delete "${app[@]}" --yes
gives 'it is gone' '[]' az sig gallery-application list -g apps -r appgal -o json
works 'delete the group' az group delete -n apps --yes
