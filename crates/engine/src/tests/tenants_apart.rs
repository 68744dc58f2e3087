//! A region in which tenants share nothing (`dedup = "tenant"`, RFD 10): whose bytes lie where, what is read of others, what is freed.

use super::sharing::{Consumer, community, share, share_images, tenants};
use super::site::{self, Site, VERSION};
use super::storage::{account, upload};
use super::{MIB, Server, definition, disk_bytes};
use crate::base_images::StoredImages;
use crate::content::sweep;
use crate::storage::{Access, CopyOptions, DeleteSnapshots, NewBlob, Place, Source};
use crate::{Boundary, Dedup, EngineConfig, RegionSettings};
use futures::TryStreamExt;
use lazuli_chunks::ManifestId;
use lazuli_vmm::host::BaseImages as _;
use serde_json::{Value, json};

/// East US keeps tenants apart; West US, as all others, does not.
fn apart(config: &mut EngineConfig) {
    config.regions.insert("eastus".into(), RegionSettings { dedup: Dedup::Tenant, ..RegionSettings::default() });
}

/// Two who use one server: each is it in turn.
impl Consumer {
    fn take_turns(&mut self, server: &mut Server) {
        std::mem::swap(&mut self.call, &mut server.call);
        std::mem::swap(&mut self.group, &mut server.group);
    }
}

impl Server {
    fn tenant(&self) -> Boundary {
        Boundary::Tenant(self.call.caller.tenant.parse().unwrap())
    }

    /// What a tenant's store in East US has: manifests, bytes.
    async fn in_store(&self, of: Boundary) -> (u64, u64) {
        let usage = self.engine.regions().get("eastus", of).await.unwrap().usage().await.unwrap();
        (usage.manifests, usage.stored_bytes)
    }

    async fn base(&self, tail: &str) -> String {
        self.internal(tail).await["base"]["manifest"].as_str().unwrap().to_owned()
    }

    async fn sweep(&self) {
        sweep(&self.engine, ["eastus".to_owned(), "westus".to_owned()]).await;
    }

    async fn usage_in_east_us(&self, tail: &str) -> Value {
        let view = self.engine.view(&self.call, &self.id(tail), "usage").await.unwrap().unwrap();
        view["regions"][0].clone()
    }
}

fn nearly(a: u64, b: u64) -> bool {
    a.abs_diff(b) < b / 20
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_tenants_bring_in_is_there_twice_and_each_frees_its_own() {
    let mut server = Server::configured(apart).await;
    server.run();
    let mut others = Consumer::of_other_tenant(&server).await;
    let data = disk_bytes(1);
    server.uploaded("d1", &data).await;
    let one = server.stored_bytes("eastus").await;
    server.uploaded("d2", &data).await;
    assert_eq!(server.stored_bytes("eastus").await, one, "a tenant shares with itself");
    let first = server.tenant();

    others.take_turns(&mut server);
    let second = server.tenant();
    server.uploaded("d1", &data).await;
    let both = server.stored_bytes("eastus").await;
    assert!(nearly(both, 2 * one), "{both} bytes of two, {one} of one");
    let usage = server.usage_in_east_us("disks/d1").await;
    let all = json!({"uniqueBytes": usage["uniqueBytes"], "storedBytes": usage["storedBytes"]});
    assert_eq!(usage["freedByDelete"], all, "nobody else needs a byte of it");
    assert!(nearly(usage["storedBytes"].as_u64().unwrap(), one), "{usage}");
    let manifest = server.base("disks/d1").await;
    let folder = server.dir.path().join("regions/eastus");
    assert!(!folder.join("packs").exists());
    for tenant in [first, second] {
        let Boundary::Tenant(id) = tenant else { panic!("a tenant's store is expected") };
        assert!(folder.join(format!("tenants/{id}/packs")).is_dir());
        assert_eq!(server.in_store(tenant).await.0, 1);
    }

    // Names are of contents, so both have the same one; it is the own copy that each one's reference keeps.
    others.take_turns(&mut server);
    assert_eq!(server.base("disks/d1").await, manifest);
    assert_eq!(server.usage_in_east_us("disks/d1").await["freedByDelete"], json!({"uniqueBytes": 0, "storedBytes": 0}));
    server.delete("disks/d1").await.unwrap();
    assert_eq!(server.in_store(first).await, (1, one));
    server.delete("disks/d2").await.unwrap();
    let (manifests, left) = server.in_store(first).await;
    assert!(manifests == 0 && left < one / 10, "{left} of {one} bytes are left though its tenant needs none");
    // Nor does it come back at no cost because another one has it.
    server.uploaded("d3", &data).await;
    assert!(nearly(server.in_store(first).await.1, one));
    server.delete("disks/d3").await.unwrap();

    others.take_turns(&mut server);
    assert!(server.stored("eastus", &manifest).await == data);
    let server = server.restart().await;
    assert!(server.stored("eastus", &manifest).await == data);
    server.delete("disks/d1").await.unwrap();
    assert!(server.stored_bytes("eastus").await < one / 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_image_is_read_where_it_is_until_its_user_makes_something_of_it() {
    let mut site = Site::configured(apart).await;
    let groups = json!({"location": "eastus", "properties": {"sharingProfile": {"permissions": "Groups"}}});
    site.server.put("galleries/g", groups).await.unwrap();
    let mut user = Consumer::of_other_tenant(&site.server).await;
    share(&site.server, "Add", tenants(&[&user.call.caller.tenant])).await;
    let image = format!("/SharedGalleries/{}-G/Images/i/Versions/latest", site.server.group.subscription);
    let owner = site.server.tenant();

    user.take_turns(&mut site.server);
    site::network(&site.server).await;
    site::nic(&site.server, "n1", json!({})).await.unwrap();
    let reference = json!({"sharedGalleryImageId": image});
    site.create(|b| b["properties"]["storageProfile"]["imageReference"] = reference).await.unwrap();
    let machine = site.running().await;
    let me = site.server.tenant();
    let base = site.server.base("disks/os1").await;
    let source = site.defined(machine).unwrap().os_disk.base.unwrap().source;
    assert_eq!(source, format!("{}/{base}", me.store_name("eastus")));
    let stores = site.server.engine.regions().stores().clone();
    assert_eq!(stores.boundaries("eastus").await.unwrap(), [owner].into(), "nothing was brought in");
    // As the host does, which remembers nothing that it read.
    let exported = StoredImages::new(stores, 0).open(&source).await.unwrap();
    let data = disk_bytes(1);
    let mib = usize::try_from(MIB).unwrap();
    let mut read = vec![0; mib];
    exported.read_at(0, &mut read).await.unwrap();
    assert!(read == data[..mib]);

    let nothing = json!({"uniqueBytes": 0, "storedBytes": 0});
    assert_eq!(
        site.server.usage_in_east_us("disks/os1").await["freedByDelete"],
        nothing,
        "the bytes are their owner's"
    );

    // Its owner lets go of it; the machine does not.
    user.take_turns(&mut site.server);
    site.server.delete(VERSION).await.unwrap();
    site.server.delete("disks/d1").await.unwrap();
    assert_eq!(site.server.in_store(owner).await.0, 1);
    exported.read_at(0, &mut read).await.unwrap();

    // A disk that was made of it is the user's own, with all that is below it.
    user.take_turns(&mut site.server);
    assert_eq!(
        site.server.usage_in_east_us("disks/os1").await["freedByDelete"],
        nothing,
        "nor is it told that they are gone"
    );
    site.power("deallocate").await.unwrap();
    site.write("disks/os1", &["write -P 0xab 1M 64k"]).await;
    let create = json!({"createOption": "Copy", "sourceResourceId": site.server.id("disks/os1").to_string()});
    let body = json!({"location": "eastus", "properties": {"creationData": create}});
    site.server.put("snapshots/s", body).await.unwrap();
    let mut written = data.clone();
    written[mib..mib + (64 << 10)].fill(0xab);
    let snapshot = site.server.base("snapshots/s").await;
    assert!(site.server.stored("eastus", &snapshot).await == written);
    site.server.sweep().await;
    assert_eq!((site.server.in_store(me).await.0, site.server.in_store(owner).await.0), (2, 0));
    exported.read_at(MIB, &mut read).await.unwrap();
    assert!(read == data[mib..2 * mib], "a machine that runs reads on, from where it is now");
    site.power("start").await.unwrap();

    for tail in [site::VM, "disks/os1", "snapshots/s"] {
        site.server.delete(tail).await.unwrap();
    }
    assert_eq!(site.server.in_store(me).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_go_between_regions_of_both_kinds_into_the_stores_of_their_tenants() {
    let mut server = Server::configured(apart).await;
    server.run();
    share_images(&server, community("pubName")).await;
    share(&server, "EnableCommunity", Value::Null).await;
    let gallery = server.get("galleries/g").await.unwrap();
    let name = gallery["properties"]["sharingProfile"]["communityGalleryInfo"]["publicNames"][0].as_str().unwrap();
    let image = format!("/CommunityGalleries/{name}/Images/i/Versions/1.0.0");
    let base: ManifestId = server.internal(VERSION).await["osDisk"]["manifest"].as_str().unwrap().parse().unwrap();
    let owner = server.tenant();
    Consumer::of_other_tenant(&server).await.take_turns(&mut server);
    let me = server.tenant();
    let holds = async |region: &str, boundary| server.engine.regions().get(region, boundary).await.unwrap().holds(base);
    assert!(holds("eastus", owner).await && holds("westus", Boundary::Region).await && !holds("eastus", me).await);

    server.put("galleries/mine", json!({"location": "eastus"})).await.unwrap();
    let targets = json!([{"name": "eastus"}, {"name": "westus"}]);
    for (home, sku) in [("eastus", "sku1"), ("westus", "sku2")] {
        let mut own = definition(sku);
        own["location"] = json!(home);
        let tail = format!("galleries/mine/images/{home}");
        server.put(&tail, own).await.unwrap();
        let version = format!("{tail}/versions/1.0.0");
        let body = json!({"location": home, "properties": {"publishingProfile": {"targetRegions": targets},
            "storageProfile": {"source": {"communityGalleryImageId": image}}}});
        let made = server.put(&version, body).await.unwrap();
        assert_eq!(made["properties"]["provisioningState"], "Succeeded", "{made}");
        assert!(holds("eastus", me).await, "brought into the own store, from {home}");
        let usage = server.usage_in_east_us(&version).await;
        assert_eq!(usage["freedByDelete"]["uniqueBytes"], usage["uniqueBytes"], "{usage}");
        server.delete(&version).await.unwrap();
        assert!(!holds("eastus", me).await && holds("eastus", owner).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_copied_from_another_tenant_stays_where_it_is() {
    let mut server = Server::configured(apart).await;
    let mut others = Consumer::of_other_tenant(&server).await;
    let data = &disk_bytes(5)[..usize::try_from(MIB).unwrap()];
    let (storage, access) = (server.engine.storage().clone(), Access::default());
    let place = async |server: &Server, name: &str| {
        let account = account(server, name, "eastus").await;
        storage.create_container(&account, "vhds", Default::default(), None).await.unwrap();
        Place { account, container: "vhds".into(), blob: "b".into(), snapshot: None }
    };
    let read = async |at: &Place| {
        let opened = storage.open(at, &access).await.unwrap();
        opened.read(0..u64::MAX).try_collect::<Vec<_>>().await.unwrap().concat()
    };
    let theirs = place(&server, "acct1").await;
    storage.put_block_blob(&theirs, upload(data), NewBlob::default(), &access).await.unwrap();
    let owner = server.tenant();
    others.take_turns(&mut server);
    let me = server.tenant();
    let mine = place(&server, "acct2").await;
    storage.copy(&mine, &Source::Blob(theirs.clone()), CopyOptions::default(), &access).await.unwrap();
    assert_eq!(server.engine.regions().stores().boundaries("eastus").await.unwrap(), [owner].into());
    storage.delete(&theirs, DeleteSnapshots::Include, &access).await.unwrap();
    server.sweep().await;
    assert!(read(&mine).await == data);

    // Brought in, the same bytes are one's own; the others' are let go of.
    let again = Place { blob: "again".into(), ..mine.clone() };
    storage.put_block_blob(&again, upload(data), NewBlob::default(), &access).await.unwrap();
    server.sweep().await;
    assert_eq!((server.in_store(me).await.0, server.in_store(owner).await.0), (1, 0));
    assert!(read(&mine).await == data && read(&again).await == data);
}
