//! Alerts in the forms that others read.

use invar_drift::Severity;
use serde_json::{Value, json};

use super::{Alert, Format, Kind};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One line.
pub(super) fn write(alert: &Alert, format: Format) -> String {
    match format {
        Format::Invar => plain(alert).to_string(),
        Format::Slack => slack(alert).to_string(),
        Format::Ocsf => ocsf(alert).to_string(),
        Format::Cef => cef(alert),
    }
}

fn plain(alert: &Alert) -> Value {
    let mut value = serde_json::to_value(alert).unwrap_or_default();
    value["format"] = json!("invar-alert");
    value["version"] = json!(1);
    value
}

/// A `text` for a channel, and everything else beside it, which Slack leaves alone.
fn slack(alert: &Alert) -> Value {
    let sign = match alert.severity {
        Severity::Critical | Severity::High => ":rotating_light:",
        _ => ":information_source:",
    };
    // `<` and `&` would be read as links and mentions.
    let text = alert
        .text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let container = alert.container.as_deref().unwrap_or("invar agent");
    json!({
        "text": format!("{sign} *{}* {container}: {text}", alert.severity),
        "alert": plain(alert),
    })
}

/// <https://schema.ocsf.io/1.3.0/classes/detection_finding>
fn ocsf(alert: &Alert) -> Value {
    let severity = match alert.severity {
        Severity::Info => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    };
    let finding = alert.event.as_ref().map(|event| &event["finding"]);
    let actor = alert.event.as_ref().map(|event| &event["actor"]);
    let status = if alert.kind == Kind::Response { 4 } else { 1 };
    let mut value = json!({
        "category_uid": 2, "class_uid": 2004, "activity_id": 1, "type_uid": 200_401,
        "time": alert.time.as_millisecond(),
        "severity_id": severity,
        "status_id": status,
        "message": alert.text,
        "metadata": {
            "version": "1.3.0",
            "product": { "name": "Invar", "vendor_name": "Invar", "version": VERSION },
        },
        "finding_info": {
            "uid": alert.incident.map_or_else(|| alert.time.to_string(), |id| id.to_string()),
            "title": finding.and_then(|found| found["text"].as_str()).unwrap_or(&alert.text),
        },
        "unmapped": plain(alert),
    });
    if let Some(technique) = finding.and_then(|found| found["technique"].as_str()) {
        value["finding_info"]["attacks"] = json!([{ "technique": { "uid": technique } }]);
    }
    if let Some(container) = &alert.container {
        let uid = alert.container_id.as_deref().unwrap_or_default();
        value["resources"] = json!([{ "type": "container", "name": container, "uid": uid }]);
    }
    if let Some(pid) = actor.and_then(|actor| actor["pid"].as_u64()) {
        let path = actor
            .and_then(|actor| actor["exe"].as_str())
            .unwrap_or_default();
        value["evidences"] =
            json!([{ "process": { "pid": pid, "file": { "path": path, "type_id": 1 } } }]);
    }
    value
}

fn cef(alert: &Alert) -> String {
    let header = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|");
    let value = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('=', "\\=");
        text.replace(['\n', '\r'], " ")
    };
    let finding = alert.event.as_ref().map(|event| &event["finding"]);
    let rule = finding.and_then(|found| found["rule"].as_str());
    let rule = rule.map_or_else(|| kind(alert.kind).to_owned(), str::to_owned);
    let severity = match alert.severity {
        Severity::Info => 1,
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
        Severity::Critical => 10,
    };
    let mut fields = vec![format!("rt={}", alert.time.as_millisecond())];
    let mut add = |key: &str, text: Option<&str>| {
        fields.extend(text.map(|text| format!("{key}={}", value(text))));
    };
    let of_event = |pointer: &str| alert.event.as_ref()?.pointer(pointer)?.as_str();
    add("dhost", alert.container.as_deref());
    add("externalId", alert.container_id.as_deref());
    add("act", of_event("/what"));
    add("filePath", of_event("/path"));
    add("sproc", of_event("/actor/exe"));
    add("cs1", alert.evidence.as_deref());
    add("msg", Some(&alert.text));
    format!(
        "CEF:0|Invar|invar|{VERSION}|{}|{}|{severity}|{}",
        header(&rule),
        header(&alert.text),
        fields.join(" ")
    )
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Event => "event",
        Kind::Incident => "incident",
        Kind::Response => "response",
        Kind::Agent => "agent",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn alert(text: &str) -> Alert {
        Alert {
            time: Timestamp::from_second(1_700_000_000).unwrap(),
            kind: Kind::Incident,
            severity: Severity::Critical,
            text: text.to_owned(),
            container: Some("embedded:web".to_owned()),
            container_id: Some("ab".repeat(32)),
            incident: Some(7),
            evidence: None,
            event: Some(json!({
                "what": "exec-blocked", "path": "/tmp/a=b",
                "finding": { "rule": "new-program", "text": "a program", "technique": "T1105" },
                "actor": { "pid": 12, "exe": "/bin/sh" },
            })),
        }
    }

    #[test]
    fn text_of_a_container_forges_nothing_in_any_format() {
        let alert = alert("x | y = <!channel> \\ & z");
        let cef = write(&alert, Format::Cef);
        assert!(cef.starts_with("CEF:0|Invar|invar|"), "{cef}");
        assert!(
            cef.contains("|new-program|x \\| y = <!channel> \\\\ & z|10|"),
            "{cef}"
        );
        assert!(cef.contains("filePath=/tmp/a\\=b"), "{cef}");
        let slack: Value = serde_json::from_str(&write(&alert, Format::Slack)).unwrap();
        let text = slack["text"].as_str().unwrap();
        assert!(
            text.contains("&lt;!channel&gt;") && !text.contains('<'),
            "{text}"
        );
        assert_eq!(slack["alert"]["incident"], 7);
    }

    #[test]
    fn a_detection_finding_has_what_its_class_requires() {
        let found: Value = serde_json::from_str(&write(&alert("t"), Format::Ocsf)).unwrap();
        for field in [
            "activity_id",
            "category_uid",
            "class_uid",
            "severity_id",
            "time",
            "type_uid",
        ] {
            assert!(found[field].is_i64(), "{field}");
        }
        assert_eq!(found["type_uid"], 200_401);
        assert_eq!(found["metadata"]["version"], "1.3.0");
        assert_eq!(found["finding_info"]["uid"], "7");
        assert_eq!(
            found["finding_info"]["attacks"][0]["technique"]["uid"],
            "T1105"
        );
        assert_eq!(found["evidences"][0]["process"]["pid"], 12);
    }
}
