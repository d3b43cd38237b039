//! Decisions of CrowdSec.

use super::*;

#[test]
fn csv_as_it_is_listed() {
    const HEADER: &str = "id,source,ip,reason,action,country,as,events_count,expiration,simulated,alert_id\n";
    let text = HEADER.to_owned()
        + "1,crowdsec,Ip:198.51.100.7,crowdsecurity/ssh-bf,ban,US,\"64500 Example, Inc.\",6,3h59m45.1s,false,801\n\
           2,cscli,Range:203.0.113.0/24,\"a \"\"b\"\"\nc\",ban,,,1,3h,false,802\n\
           3,cscli,Ip:2001:db8::1,x,ban,,,1,3h,false,803\n\
           4,cscli,Ip:198.51.100.8,x,captcha,,,1,3h,false,804\n\
           5,cscli,Country:FR,x,ban,,,1,3h,false,805\n\
           6,cscli,Ip:198.51.100.9,x,(simul)ban,,,1,3h,true,806\n\
           7,cscli,Ip:198.51.100.10,x,ban,,,1,-3m,false,807\n\
           8,cscli,Ip:10.0.0.1,x,ban,,,1,3h,false,808\n\
           9,cscli,nonsense,x,ban,,,1,3h,false,809\n";
    let entries = ["198.51.100.7", "203.0.113.0/24", "2001:db8::1"];
    let refusals = ["10: private", "11: no scope and value"];
    check(&text, Format::CrowdsecCsv, &entries, &refusals, 4);
    check(text.replace('\n', "\r\n"), Format::CrowdsecCsv, &entries, &refusals, 4);
    check(HEADER, Format::CrowdsecCsv, &[], &[], 0);
    check(HEADER.replace("alert_id", "alert_id,machine"), Format::CrowdsecCsv, &[], &[], 0);
    // A quote that is never closed takes the rest; what comes of it isn't much.
    check(
        format!("{HEADER}1,x,Ip:198.51.100.7,x,ban\n2,\"x,Ip:198.51.100.8,x,ban\n"),
        Format::CrowdsecCsv,
        &["198.51.100.7"],
        &["3: no scope"],
        0,
    );
}

#[test]
fn csv_as_it_is_imported() {
    use Format::CrowdsecCsv;
    check(
        "duration,scope,value\n24h,ip,198.51.100.7\n24h,Range,203.0.113.0/24\n24h,username,bob\n",
        CrowdsecCsv,
        &["198.51.100.7", "203.0.113.0/24"],
        &[],
        1,
    );
    check("value\n198.51.100.7\n\n198.51.100.8", CrowdsecCsv, &["198.51.100.7", "198.51.100.8"], &[], 0);
    check(
        "# mine\n\"value\",\"type\"\n\"198.51.100.7\",\"ban\"\n198.51.100.8,captcha\n198.51.100.9",
        CrowdsecCsv,
        &["198.51.100.7", "198.51.100.9"],
        &[],
        1,
    );
}

const BAN: &str = "{\"id\":1,\"origin\":\"cscli\",\"type\":\"ban\",\"scope\":\"Ip\",\"value\":\"198.51.100.7\",\"duration\":\"3h\",\"scenario\":\"x\"}";
const RANGE: &str = "{\"type\":\"ban\",\"scope\":\"range\",\"value\":\"203.0.113.0/24\",\"simulated\":false}";
const OTHERS: &str = "{\"type\":\"captcha\",\"scope\":\"Ip\",\"value\":\"198.51.100.8\"},\
                      {\"type\":\"ban\",\"scope\":\"AS\",\"value\":\"64500\"},\
                      {\"type\":\"ban\",\"value\":\"198.51.100.9\",\"simulated\":true},\
                      {\"type\":\"ban\",\"value\":\"198.51.100.9\",\"duration\":\"-1s\"}";

#[test]
fn json_of_each_kind() {
    use Format::CrowdsecJson;
    let entries = ["198.51.100.7", "203.0.113.0/24"];
    check(format!("[{BAN},{RANGE},{OTHERS}]"), CrowdsecJson, &entries, &[], 4);
    let alerts = format!(
        "[{{\"id\":1,\"source\":{{\"scope\":\"Ip\",\"value\":\"1.1.1.1\"}},\"decisions\":[{BAN}]}},\n{{\"decisions\":null,\"value\":null}},{{\"decisions\":[{RANGE},{OTHERS}]}}]"
    );
    check(alerts.replace("{\"decisions\":null,\"value\":null},", ""), CrowdsecJson, &entries, &[], 4);
    check(alerts, CrowdsecJson, &entries, &["2: no decision"], 4);
    check(format!("{{\"deleted\":[{BAN}],\"new\":[{BAN},{RANGE}]}}"), CrowdsecJson, &entries, &[], 1);
    check(format!("{{\n \"new\": null, \"deleted\": [{BAN}]\n}}"), CrowdsecJson, &[], &[], 1);
    check("null", CrowdsecJson, &[], &[], 0);
    check("[]", CrowdsecJson, &[], &[], 0);
    let lines = format!("[\n  {BAN},\n  {{\"value\":\"10.0.0.1\"}},\n\n  {{\"value\":5}},{RANGE}]\n");
    check(&lines, CrowdsecJson, &entries, &["3: private", "5: no decision"], 0);
    for cut in 1..lines.len() - 1 {
        assert!(parse(&lines.as_bytes()[..cut], &protected()).is_err(), "cut after {cut} bytes");
    }
    refused(format!("[{BAN}"), "was cut short");
    check("{\"new\":null,\"deleted\":null}", CrowdsecJson, &[], &[], 0);
    refused("{\"message\":\"new\"}", "no format that is known");
    refused("{\"error\":\"access forbidden\"}", "no format that is known");
    refused("[1,2]", "2 of its 2 entries can't be read");
}
