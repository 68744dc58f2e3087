//! The account as a whole: containers, service properties, keys for delegation.

use super::super::reply::{Failure, http_date, insert};
use super::auth::{Who, failure_of};
use super::reply::now_ms;
use super::{Planned, xml};
use crate::body;
use crate::respond::{Reply, empty};
use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use jiff::Timestamp;
use lazuli_engine::storage::ListQuery;

/// XML documents are small.
pub(super) const XML_LIMIT: usize = 4 << 20;

pub(super) fn xml(status: StatusCode, text: String) -> Reply {
    let mut response = empty(status);
    *response.body_mut() = Body::from(text);
    insert(response.headers_mut(), "content-type", "application/xml");
    response
}

/// Nothing is logged, measured, shared with browsers, kept after deletion or served as a site.
pub(super) fn properties() -> Reply {
    const OFF: &str = "<Version>1.0</Version><Enabled>false</Enabled>\
                       <RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>";
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><StorageServiceProperties><Logging><Version>1.0</Version>\
         <Read>false</Read><Write>false</Write><Delete>false</Delete><RetentionPolicy><Enabled>false</Enabled>\
         </RetentionPolicy></Logging><HourMetrics>{OFF}</HourMetrics><MinuteMetrics>{OFF}</MinuteMetrics><Cors />\
         <DeleteRetentionPolicy><Enabled>false</Enabled></DeleteRetentionPolicy>\
         <StaticWebsite><Enabled>false</Enabled></StaticWebsite></StorageServiceProperties>"
    );
    xml(StatusCode::OK, text)
}

pub(super) fn stats() -> Reply {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><StorageServiceStats><GeoReplication><Status>unavailable</Status>\
         <LastSyncTime>{}</LastSyncTime></GeoReplication></StorageServiceStats>",
        http_date(now_ms())
    );
    xml(StatusCode::OK, text)
}

impl Planned<'_> {
    pub(super) async fn document(&self, body: &mut Option<Body>) -> Result<bytes::Bytes, Failure> {
        let body = body.take().unwrap_or_default();
        body::read(&self.ask.headers, body, XML_LIMIT).await.map_err(|error| match error.status {
            413 => Failure::too_large(XML_LIMIT as u64),
            408 => Failure::new(500, "OperationTimedOut", "The request body did not arrive in time."),
            _ => Failure::new(400, "InvalidInput", "The request body could not be read to its end."),
        })
    }

    pub(super) fn list_query(&self) -> Result<ListQuery, Failure> {
        let max = match self.ask.query("maxresults") {
            None => None,
            Some(text) => match text.parse::<usize>() {
                Ok(n) if n >= 1 => Some(n),
                _ => return Err(Failure::bad_query("maxresults", text)),
            },
        };
        Ok(ListQuery {
            prefix: self.ask.query("prefix").unwrap_or_default().to_owned(),
            delimiter: self.ask.query("delimiter").map(str::to_owned),
            marker: self.ask.query("marker").map(str::to_owned),
            max,
            snapshots: self.includes("snapshots"),
        })
    }

    pub(super) fn includes(&self, word: &str) -> bool {
        let list = self.ask.query("include").unwrap_or_default();
        list.split(',').any(|w| w.trim().eq_ignore_ascii_case(word))
    }

    pub(super) async fn list_containers(&self) -> Result<Reply, Failure> {
        let query = self.list_query()?;
        let page = self.storage().list_containers(&self.target(), &query).await?;
        let text = xml::container_list(&self.endpoint(), &query, &page, self.includes("metadata"));
        Ok(xml(StatusCode::OK, text))
    }

    /// Only what changes nothing is taken: the rest is not there to be turned on.
    pub(super) async fn set_service_properties(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let document = self.document(body).await?;
        for (path, text) in xml::leaves(&document)? {
            let feature = path.get(1).map_or("", String::as_str);
            let on = text.eq_ignore_ascii_case("true") || path.iter().any(|name| name == "CorsRule");
            if on {
                let message = format!("{feature} cannot be turned on: this server does not have it.");
                return Err(Failure::new(400, "UnsupportedXmlNode", message).with("XmlNodeName", feature.to_owned()));
            }
        }
        Ok(empty(StatusCode::ACCEPTED))
    }

    pub(super) async fn user_delegation_key(&self, body: &mut Option<Body>) -> Result<Reply, Failure> {
        let document = self.document(body).await?;
        let Who::Caller(caller) = self.who else {
            let message = "Only a request with a bearer token may ask for a user delegation key.";
            return Err(Failure::new(403, "AuthenticationFailed", message));
        };
        let (mut start, mut expiry) = (None, None);
        for (path, text) in xml::leaves(&document)? {
            let time = || {
                text.parse::<Timestamp>().map(Some).map_err(|_| {
                    let message = "The value for one of the XML nodes is not in the correct format.";
                    Failure::new(400, "InvalidXmlNodeValue", message).with("XmlNodeValue", text.clone())
                })
            };
            match path.last().map(String::as_str) {
                Some("Start") if !text.is_empty() => start = time()?,
                Some("Expiry") => expiry = time()?,
                _ => {}
            }
        }
        let expiry = expiry.ok_or_else(|| {
            let message = "A required XML node was not specified in the request body.";
            Failure::new(400, "MissingRequiredXmlNode", message).with("XmlNodeName", "Expiry")
        })?;
        let version = self.ask.header("x-ms-version").unwrap_or(super::super::disks::VERSION);
        let made = self.engine.user_delegation_key(caller, self.account, start, expiry, version).await;
        let (key, bytes) = made.map_err(failure_of)?;
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><UserDelegationKey><SignedOid>{}</SignedOid><SignedTid>{}</SignedTid>\
             <SignedStart>{}</SignedStart><SignedExpiry>{}</SignedExpiry><SignedService>{}</SignedService>\
             <SignedVersion>{}</SignedVersion><Value>{}</Value></UserDelegationKey>",
            key.object_id,
            key.tenant_id,
            key.start,
            key.expiry,
            key.service,
            quick_xml::escape::escape(&key.version),
            BASE64_STANDARD.encode(bytes)
        );
        Ok(xml(StatusCode::OK, text))
    }

    pub(super) fn account_info(&self) -> Reply {
        let mut response = empty(StatusCode::OK);
        let headers = response.headers_mut();
        insert(headers, "x-ms-sku-name", &self.account.sku);
        insert(headers, "x-ms-account-kind", &self.account.kind);
        insert(headers, "x-ms-is-hns-enabled", "false");
        response
    }
}
