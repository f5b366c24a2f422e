//! Classifying user agents: tools, image proxies, mailboxes that prefetch.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// Names of programs that fetch links and images on their own. Each was chosen because no mail program or browser has it
/// in its user agent.
const TOOLS: [&str; 34] = [
    "adsbot",
    "aiohttp",
    "apache-httpclient",
    "axios/",
    "barracuda",
    "bingbot",
    "bingpreview",
    "cisco-ironport",
    "crawler",
    "curl/",
    "facebookexternalhit",
    "fireeye",
    "fortiguard",
    "go-http-client",
    "googlebot",
    "guzzlehttp",
    "headlesschrome",
    "java/",
    "libwww-perl",
    "mimecast",
    "node-fetch",
    "phantomjs",
    "playwright",
    "proofpoint",
    "puppeteer",
    "python-",
    "python/",
    "scrapy",
    "selenium",
    "slackbot",
    "spider",
    "symantec",
    "wget/",
    "zgrab",
];

/// Proxies through which a mailbox loads images at the moment when the person opens the mail.
const PICTURE_PROXIES: [&str; 2] = ["googleimageproxy", "yahoomailproxy"];

/// Finds any of these names, ignoring case, in one pass: every open and click is checked.
fn finder(names: &[&str]) -> AhoCorasick {
    let finder = AhoCorasick::builder().ascii_case_insensitive(true).build(names);
    finder.expect("so few names are no more than an automaton can have")
}

/// Checks whether the agent names a tool.
pub(super) fn is_tool(agent: &str) -> bool {
    static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| finder(&TOOLS));
    FINDER.is_match(agent)
}

/// Checks whether a reported agent is blank. An agent that was not reported does not count as blank: many providers report
/// none.
pub(super) fn is_blank(agent: &str) -> bool {
    agent.trim().is_empty()
}

/// Checks whether the agent is a proxy that fetches images when the person opens the mail.
pub(super) fn is_picture_proxy(agent: &str) -> bool {
    static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| finder(&PICTURE_PROXIES));
    FINDER.is_match(agent)
}

/// Checks whether the agent is the bare `Mozilla/5.0` with which Apple's mail programs prefetch images.
pub(super) fn is_bare(agent: &str) -> bool {
    agent.trim() == "Mozilla/5.0"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_told_from_browsers() {
        let browser = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36";
        let office = "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; Microsoft Outlook 16.0.5)";
        let proxy =
            "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
        let phone = "Mozilla/5.0 (Linux; Android 9; CUBOT_X18_Plus) AppleWebKit/537.36 Chrome/114.0 Mobile Safari/537.36";
        for person in [browser, office, proxy, phone, "Mozilla/5.0"] {
            assert!(!is_tool(person), "{person}");
        }
        for tool in [
            "python-requests/2.31",
            "Mozilla/5.0 (X11) HeadlessChrome/120.0",
            "Wget/1.21",
            "a crawler in the middle",
        ] {
            assert!(is_tool(tool), "{tool}");
        }
        assert!(is_picture_proxy(proxy) && !is_picture_proxy(browser));
        assert!(is_blank(" ") && !is_blank(browser));
        assert!(is_bare("Mozilla/5.0 ") && !is_bare(browser));
    }
}
