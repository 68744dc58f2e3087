//! Boot diagnostics: the guest's console and screen by URLs that end, or in a storage account.

use super::site::{Site, VM};
use crate::blobs::{BlobError, Sas};
use crate::call::ActionReply;
use crate::storage::{Access, Place};
use futures::TryStreamExt;
use lazuli_arm::ArmError;
use serde_json::{Value, json};

const RETRIEVE: &str = "retrieveBootDiagnosticsData";

impl Site {
    async fn retrieve(&self) -> Result<Value, ArmError> {
        match self.server.engine.action(&self.server.call, &self.server.id(VM), RETRIEVE, Value::Null).await? {
            ActionReply::Done(Some(reply)) => Ok(reply),
            other => panic!("an answer was expected: {other:?}"),
        }
    }

    async fn diagnosed(&self, boot: Value) -> Result<(), ArmError> {
        let patch = json!({"properties": {"diagnosticsProfile": {"bootDiagnostics": boot}}});
        let written = self.server.engine.patch(&self.server.call, &self.server.id(VM), patch).await?;
        self.server.end(&written.operation.unwrap()).await.map(drop)
    }

    async fn read_url(&self, url: &Value) -> Result<Vec<u8>, BlobError> {
        let url = url.as_str().unwrap().strip_prefix("https://127.0.0.1:1/").unwrap();
        let (path, query) = url.split_once('?').unwrap();
        let [account, container, blob] = path.splitn(3, '/').collect::<Vec<_>>().try_into().unwrap();
        let part = |name: &str| {
            let parts = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            parts.unwrap_or_default().to_owned()
        };
        let sas = Sas { si: part("si"), sig: part("sig") };
        let blob = self.server.engine.blobs().open(account, container, blob, &sas, None).await?;
        let pieces: Vec<_> = blob.read(0..u64::MAX).try_collect().await?;
        Ok(pieces.concat())
    }

    async fn view(&self) -> Value {
        let view = self.server.engine.view(&self.server.call, &self.server.id(VM), "instanceView").await;
        view.unwrap().unwrap()["bootDiagnostics"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn console_and_screen_are_read_by_urls_that_end() {
    let mut site = Site::start().await;
    site.create(|_| {}).await.unwrap();
    assert_eq!(site.view().await, Value::Null);
    let refused = site.retrieve().await.unwrap_err();
    assert_eq!(refused.code, "OperationNotAllowed");
    assert!(refused.message.ends_with("since boot diagnostics is not enabled on it."), "{refused}");

    site.diagnosed(json!({"enabled": true})).await.unwrap();
    let shown = site.server.get(VM).await.unwrap();
    assert_eq!(shown["properties"]["diagnosticsProfile"], json!({"bootDiagnostics": {"enabled": true}}));
    assert_eq!(site.view().await, json!({}), "with managed storage the view names no blobs");
    let urls = site.retrieve().await.unwrap();
    let log = site.read_url(&urls["serialConsoleLogBlobUri"]).await.unwrap();
    assert!(String::from_utf8_lossy(&log).contains("fake guest: booting"));
    let screen = &urls["consoleScreenshotBlobUri"];
    assert!(screen.as_str().unwrap().contains(".screenshot.png?"), "{screen}");
    assert!(site.read_url(screen).await.unwrap().starts_with(b"\x89PNG"));
    let wrong = json!(screen.as_str().unwrap().replace("sig=", "sig=0"));
    assert!(matches!(site.read_url(&wrong).await, Err(BlobError::Unauthenticated(_))));

    // They outlast a deallocation, not the machine.
    site.power("deallocate").await.unwrap();
    let urls = site.retrieve().await.unwrap();
    assert_eq!(site.read_url(&urls["serialConsoleLogBlobUri"]).await.unwrap(), log);
    for (minutes, good) in [("60", true), ("0", false), ("1441", false), ("soon", false)] {
        site.server.call.query.insert("sasuriexpirationtimeinminutes".into(), minutes.into());
        assert_eq!(site.retrieve().await.is_ok(), good, "{minutes}");
    }
    site.server.call.query.clear();
    site.server.delete(VM).await.unwrap();
    assert!(site.read_url(&urls["serialConsoleLogBlobUri"]).await.is_err());
    let kept = std::fs::read_dir(site.server.dir.path().join("diagnostics")).unwrap().count();
    assert_eq!(kept, 0, "nothing stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_account_has_them_where_the_view_says() {
    let site = Site::start().await;
    let server = &site.server;
    let uri = "https://diag1.blob.core.windows.net/";
    site.create(|_| {}).await.unwrap();
    let boot = json!({"enabled": true, "storageUri": uri});
    assert_eq!(site.diagnosed(boot.clone()).await.unwrap_err().code, "StorageAccountNotFound");
    let id = format!("{}/providers/Microsoft.Storage/storageAccounts/diag1", server.group).parse().unwrap();
    let account = json!({"location": "eastus", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}});
    server.engine.put(&server.call, &id, account).await.unwrap();
    site.diagnosed(boot).await.unwrap();

    let view = site.view().await;
    let log = view["serialConsoleLogBlobUri"].as_str().unwrap().strip_prefix(uri).unwrap();
    let (container, blob) = log.split_once('/').unwrap();
    assert!(container.starts_with("bootdiagnostics-vm1-") && blob.starts_with("vm1."), "{log}");
    let account = server.engine.account_of_blobs("diag1").await.unwrap().unwrap();
    let at = Place { account, container: container.into(), blob: blob.into(), snapshot: None };
    let opened = server.engine.storage().open(&at, &Access::default()).await.unwrap();
    let pieces: Vec<_> = opened.read(0..u64::MAX).try_collect().await.unwrap();
    assert!(String::from_utf8_lossy(&pieces.concat()).contains("fake guest: booting"));
    assert_eq!(site.retrieve().await.unwrap_err().code, "OperationNotAllowed");
    // Once more: what is there is replaced.
    assert_eq!(site.view().await, view);
}
