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
works 'delete the application' az sig gallery-application delete "${app[@]}" --yes
gives 'it is gone' '[]' az sig gallery-application list -g apps -r appgal -o json
works 'delete the group' az group delete -n apps --yes
