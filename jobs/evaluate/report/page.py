"""The report's page: its frame and its style, for screens, phones and paper."""

STYLE = """
:root{--ink:#0b63ce;--second:#d9730d;--faint:#98a2b3;--text:#1d2433;--soft:#5b6577;--line:#e3e7ee;
--card:#fff;--page:#f5f6f9;--good:#0f7a43;--bad:#b42318}
@media (prefers-color-scheme:dark){:root{--ink:#66a8ff;--second:#ffab57;--faint:#667085;
--text:#e8ebf1;--soft:#a2abbb;--line:#2c3442;--card:#171c26;--page:#0f131a;--good:#4cc38a;
--bad:#ff8a7d}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1160px;padding:20px 16px 48px;background:var(--page);
color:var(--text);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:0}h2{font-size:1rem;margin:0 0 8px}
header p{margin:4px 0 16px;color:var(--soft)}
section,figure{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:14px 16px;margin:0 0 14px;break-inside:avoid}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:14px;
margin-bottom:14px}
figure{margin:0}svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);stroke:none;font-size:11px}.rule{stroke:var(--line);stroke-width:1}
figcaption{font-weight:600;margin-bottom:6px}
.keys{float:right;font-weight:400;font-size:.8rem;color:var(--soft)}
.keys span{margin-left:12px;white-space:nowrap}
.keys i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(100px,1fr));gap:12px}
.tiles div{color:var(--soft);font-size:.85rem}.tiles b{display:block;font-size:1.4rem;
color:var(--text);font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:500}
td,th{padding:5px 8px 5px 0;border-top:1px solid var(--line);vertical-align:top}
tr:first-child>*{border-top:0}td{font-variant-numeric:tabular-nums}
.facts th{width:30%;color:var(--soft)}code{overflow-wrap:anywhere;font-size:.85em}
ul{margin:0;padding-left:20px}.yes{color:var(--good)}.no{color:var(--bad)}
.bar{position:relative;min-width:90px;width:30%}
.bar i{position:absolute;left:0;top:7px;bottom:7px;border-radius:3px;
background:var(--ink);opacity:.25}
.bar i.whisker{top:50%;bottom:auto;height:2px;opacity:1}
.wide{overflow-x:auto}.soft{color:var(--soft)}
.verdict{border-left:5px solid var(--good)}.refused{border-left-color:var(--bad)}
@media print{:root{--ink:#0b63ce;--second:#d9730d;--text:#000;--soft:#444;--line:#ccc;--card:#fff}
body{background:#fff;padding:0;max-width:none}}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""
