//! A step of a template: a customizer, or a validator inside a machine of the result.
//!
//! | type | validator too | system |
//! |---|---|---|
//! | `Shell` | yes | Linux |
//! | `PowerShell` | yes | Windows |
//! | `File` | yes | both; on Linux below `/tmp` |
//! | `WindowsRestart`, `WindowsUpdate` | no | Windows |
//! | `LinuxRestart`, `Ansible` (Lazuli's own) | no | Linux |

use super::source::insert;
use super::{MAX_ITEMS, bad_value, missing, text, validation};
use crate::ArmError;
use crate::bodies::Fields;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Commands of one step, in bytes. More belongs into a file.
const MAX_INLINE_BYTES: usize = 1 << 20;
const MAX_URI: usize = 8192;
const MAX_VARIABLES_BYTES: usize = 64 << 10;
const DEFAULT_RESTART: Duration = Duration::from_secs(300);
const DEFAULT_UPDATES: u32 = 1000;

/// A file that is fetched when the template is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub uri: String,
    /// 64 hexadecimal digits in lower case; what is fetched must have it.
    pub sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Commands, one an item.
    Inline(Vec<String>),
    Remote(Remote),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    Shell(Script),
    PowerShell {
        script: Script,
        run_elevated: bool,
        /// Only together with `run_elevated`.
        run_as_system: bool,
        /// Empty: 0 alone.
        valid_exit_codes: Vec<i32>,
    },
    File {
        source: Remote,
        destination: String,
    },
    WindowsRestart {
        command: Option<String>,
        check_command: Option<String>,
        /// As it was written; see [`Work::restart_timeout`].
        timeout: Option<String>,
    },
    WindowsUpdate {
        search_criteria: Option<String>,
        filters: Vec<String>,
        /// 0: the default of 1000.
        limit: u32,
    },
    LinuxRestart {
        timeout: Option<String>,
    },
    /// Inline: lines of the playbook.
    Ansible {
        playbook: Script,
        extra_vars: Map<String, Value>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: Option<String>,
    pub work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Customize,
    Validate,
}

pub(super) fn read_list(holder: &Fields<'_>, name: &str, phase: Phase) -> Result<Option<Vec<Step>>, ArmError> {
    let Some(items) = holder.objects(name).map_err(validation)? else { return Ok(None) };
    let path = holder.path(name);
    let (above, own) = path.rsplit_once('.').unwrap_or(("", name));
    if items.len() > MAX_ITEMS {
        let why = format!("At most {MAX_ITEMS} are accepted.");
        return Err(bad_value(above, own, &items.len().to_string(), &why));
    }
    let steps = items.iter().enumerate().map(|(i, item)| Reader { item, path: format!("{path}[{i}]"), phase }.step());
    steps.collect::<Result<_, _>>().map(Some)
}

struct Reader<'a> {
    item: &'a Fields<'a>,
    /// `ImageTemplate.properties.customize[0]`
    path: String,
    phase: Phase,
}

impl Reader<'_> {
    fn step(&self) -> Result<Step, ArmError> {
        let kind = self.item.str("type").map_err(validation)?.unwrap_or_default();
        let work = match (kind.as_str(), self.phase) {
            ("Shell", _) => Work::Shell(self.script("scriptUri")?),
            ("PowerShell", _) => self.power_shell()?,
            ("File", _) => Work::File {
                source: self.remote("sourceUri")?.ok_or_else(|| missing(&self.path, "sourceUri"))?,
                destination: self.text("destination")?.ok_or_else(|| missing(&self.path, "destination"))?,
            },
            ("WindowsRestart", Phase::Customize) => Work::WindowsRestart {
                command: self.text("restartCommand")?,
                check_command: self.text("restartCheckCommand")?,
                timeout: self.timeout()?,
            },
            ("WindowsUpdate", Phase::Customize) => self.windows_update()?,
            ("LinuxRestart", Phase::Customize) => Work::LinuxRestart { timeout: self.timeout()? },
            ("Ansible", Phase::Customize) => {
                Work::Ansible { playbook: self.script("playbookUri")?, extra_vars: self.extra_vars()? }
            }
            (other, phase) => {
                let known = match phase {
                    Phase::Customize => {
                        "It is Shell, PowerShell, File, WindowsRestart, WindowsUpdate, LinuxRestart or Ansible (spelled exactly so)."
                    }
                    Phase::Validate => "It is Shell, PowerShell or File (spelled exactly so).",
                };
                let (above, own) = self.path.rsplit_once('.').unwrap_or(("", &self.path));
                return Err(bad_value(above, &format!("{own}.type"), other, known));
            }
        };
        let name = self.item.str("name").map_err(validation)?.filter(|n| !n.is_empty());
        Ok(Step { name, work })
    }

    fn text(&self, name: &str) -> Result<Option<String>, ArmError> {
        text(self.item, name)
    }

    fn bool(&self, name: &str) -> Result<bool, ArmError> {
        Ok(self.item.bool(name).map_err(validation)?.unwrap_or(false))
    }

    /// A file at `uri` (`scriptUri`) or `inline`, not both and not none.
    fn script(&self, uri: &str) -> Result<Script, ArmError> {
        let inline = self.item.strings("inline").map_err(validation)?.filter(|lines| !lines.is_empty());
        match (self.remote(uri)?, inline) {
            (Some(remote), None) => Ok(Script::Remote(remote)),
            (None, Some(lines)) => {
                let bytes: usize = lines.iter().map(|l| l.len() + 1).sum();
                if bytes > MAX_INLINE_BYTES {
                    let why = format!(
                        "Commands of one step may have {MAX_INLINE_BYTES} bytes together: put them into a file and give its \
                         address as {uri}."
                    );
                    return Err(bad_value(&self.path, "inline", &format!("{bytes} bytes"), &why));
                }
                if self.checksum()?.is_some() {
                    let why = format!("A checksum is one of the file at {uri}.");
                    return Err(bad_value(&self.path, "sha256Checksum", "(given with inline)", &why));
                }
                Ok(Script::Inline(lines))
            }
            (None, None) => Err(missing(&self.path, &format!("{uri}' or 'inline"))),
            (Some(remote), Some(_)) => {
                let why = format!("Only one of '{uri}' and 'inline' may be given.");
                Err(bad_value(&self.path, uri, &without_query(&remote.uri), &why))
            }
        }
    }

    fn checksum(&self) -> Result<Option<String>, ArmError> {
        let Some(text) = self.text("sha256Checksum")? else { return Ok(None) };
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Some(text.to_ascii_lowercase()));
        }
        Err(bad_value(&self.path, "sha256Checksum", &text, "A SHA-256 checksum has 64 hexadecimal digits."))
    }

    fn remote(&self, name: &str) -> Result<Option<Remote>, ArmError> {
        let Some(uri) = self.text(name)? else { return Ok(None) };
        let lower = uri.to_ascii_lowercase();
        let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"));
        let has_host = rest.is_some_and(|r| !r.starts_with(['/', '?', '#', ':']) && !r.is_empty());
        if !has_host || uri.len() > MAX_URI || uri.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(bad_value(&self.path, name, &without_query(&uri), "A http or https URL is expected."));
        }
        Ok(Some(Remote { uri, sha256: self.checksum()? }))
    }

    fn power_shell(&self) -> Result<Work, ArmError> {
        let (run_elevated, run_as_system) = (self.bool("runElevated")?, self.bool("runAsSystem")?);
        if run_as_system && !run_elevated {
            let why = "It can be true only if 'runElevated' is true.";
            return Err(bad_value(&self.path, "runAsSystem", "true", why));
        }
        let wrong = |value: &Value| {
            bad_value(&self.path, "validExitCodes", &value.to_string(), "An array of whole numbers is expected.")
        };
        let valid_exit_codes = match self.item.get("validExitCodes") {
            None => vec![],
            Some(Value::Array(codes)) => {
                let code = |v: &Value| v.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| wrong(v));
                codes.iter().map(code).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(wrong(other)),
        };
        Ok(Work::PowerShell { script: self.script("scriptUri")?, run_elevated, run_as_system, valid_exit_codes })
    }

    fn extra_vars(&self) -> Result<Map<String, Value>, ArmError> {
        let wrong = |shown: &str| {
            let why = format!("An object of variables is expected, at most {MAX_VARIABLES_BYTES} bytes as JSON.");
            bad_value(&self.path, "extraVars", shown, &why)
        };
        match self.item.get("extraVars") {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(variables)) => match Value::Object(variables.clone()).to_string().len() {
                bytes if bytes > MAX_VARIABLES_BYTES => Err(wrong(&format!("{bytes} bytes"))),
                _ => Ok(variables.clone()),
            },
            Some(other) => Err(wrong(&other.to_string())),
        }
    }

    fn windows_update(&self) -> Result<Work, ArmError> {
        let limit = self.item.int("updateLimit").map_err(validation)?.unwrap_or(0);
        let limit = u32::try_from(limit)
            .map_err(|_| bad_value(&self.path, "updateLimit", &limit.to_string(), "It is not less than 0."))?;
        Ok(Work::WindowsUpdate {
            search_criteria: self.text("searchCriteria")?,
            filters: self.item.strings("filters").map_err(validation)?.unwrap_or_default(),
            limit,
        })
    }

    fn timeout(&self) -> Result<Option<String>, ArmError> {
        let Some(text) = self.text("restartTimeout")? else { return Ok(None) };
        match parse_timeout(&text) {
            Some(_) => Ok(Some(text)),
            None => Err(bad_value(
                &self.path,
                "restartTimeout",
                &text,
                "A number with a unit is expected: '90s', '5m' or '2h', at most 24h.",
            )),
        }
    }
}

/// `5m`, `2h`, `90s`
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let number: u64 = text.get(..text.len() - 1)?.parse().ok()?;
    let seconds = number.checked_mul(unit)?;
    (1..=24 * 3600).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// A URL without what may be a secret in it.
fn without_query(uri: &str) -> String {
    uri.split('?').next().unwrap_or_default().to_owned()
}

impl Script {
    fn put(&self, uri: &str, body: &mut Map<String, Value>) {
        match self {
            Self::Inline(lines) => drop(body.insert("inline".into(), lines.clone().into())),
            Self::Remote(remote) => remote.put(uri, body),
        }
    }
}

impl Remote {
    fn put(&self, name: &str, body: &mut Map<String, Value>) {
        body.insert(name.into(), self.uri.clone().into());
        insert(body, "sha256Checksum", self.sha256.clone());
    }
}

impl Work {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Shell(_) => "Shell",
            Self::PowerShell { .. } => "PowerShell",
            Self::File { .. } => "File",
            Self::WindowsRestart { .. } => "WindowsRestart",
            Self::WindowsUpdate { .. } => "WindowsUpdate",
            Self::LinuxRestart { .. } => "LinuxRestart",
            Self::Ansible { .. } => "Ansible",
        }
    }

    /// How long a restart may take.
    pub fn restart_timeout(&self) -> Duration {
        match self {
            Self::WindowsRestart { timeout: Some(text), .. } | Self::LinuxRestart { timeout: Some(text) } => {
                parse_timeout(text).unwrap_or(DEFAULT_RESTART)
            }
            _ => DEFAULT_RESTART,
        }
    }

    /// How many updates are installed at a time.
    pub fn update_limit(&self) -> u32 {
        match self {
            Self::WindowsUpdate { limit, .. } if *limit > 0 => *limit,
            _ => DEFAULT_UPDATES,
        }
    }
}

impl Step {
    /// The step's name, or its type.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.work.kind())
    }

    /// The file that the step needs, if any.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.work {
            Work::Shell(Script::Remote(remote))
            | Work::PowerShell { script: Script::Remote(remote), .. }
            | Work::Ansible { playbook: Script::Remote(remote), .. } => Some(remote),
            Work::File { source, .. } => Some(source),
            _ => None,
        }
    }

    pub(super) fn body(&self) -> Value {
        let mut body = Map::new();
        insert(&mut body, "name", self.name.clone());
        match &self.work {
            Work::Shell(script) => script.put("scriptUri", &mut body),
            Work::PowerShell { script, run_elevated, run_as_system, valid_exit_codes } => {
                script.put("scriptUri", &mut body);
                body.insert("runElevated".into(), json!(run_elevated));
                body.insert("runAsSystem".into(), json!(run_as_system));
                if !valid_exit_codes.is_empty() {
                    body.insert("validExitCodes".into(), json!(valid_exit_codes));
                }
            }
            Work::File { source, destination } => {
                source.put("sourceUri", &mut body);
                body.insert("destination".into(), json!(destination));
            }
            Work::WindowsRestart { command, check_command, timeout } => {
                insert(&mut body, "restartCommand", command.clone());
                insert(&mut body, "restartCheckCommand", check_command.clone());
                insert(&mut body, "restartTimeout", timeout.clone());
            }
            Work::WindowsUpdate { search_criteria, filters, limit } => {
                insert(&mut body, "searchCriteria", search_criteria.clone());
                if !filters.is_empty() {
                    body.insert("filters".into(), json!(filters));
                }
                body.insert("updateLimit".into(), json!(limit));
            }
            Work::LinuxRestart { timeout } => insert(&mut body, "restartTimeout", timeout.clone()),
            Work::Ansible { playbook, extra_vars } => {
                playbook.put("playbookUri", &mut body);
                if !extra_vars.is_empty() {
                    body.insert("extraVars".into(), Value::Object(extra_vars.clone()));
                }
            }
        }
        body.insert("type".into(), json!(self.work.kind()));
        Value::Object(body)
    }

    /// Why it cannot be done on that system, if so.
    pub(super) fn check_os(&self, windows: bool, place: &str) -> Result<(), String> {
        let kind = self.work.kind();
        let fits = match &self.work {
            Work::Shell(_) | Work::LinuxRestart { .. } | Work::Ansible { .. } => !windows,
            Work::PowerShell { .. } | Work::WindowsRestart { .. } | Work::WindowsUpdate { .. } => windows,
            Work::File { destination, .. } => {
                let parts: Vec<&str> = destination.split('/').collect();
                if !windows
                    && (!destination.starts_with("/tmp/") || destination.ends_with('/') || parts.contains(&".."))
                {
                    return Err(format!(
                        "'{place}.destination' is '{destination}': on Linux a file is put below /tmp/; move it with a Shell \
                         customizer that follows."
                    ));
                }
                true
            }
        };
        if fits {
            return Ok(());
        }
        let system = if windows { "Windows" } else { "Linux" };
        Err(format!("'{place}' is of type {kind}, which a source with {system} does not support."))
    }
}
