// What Mozilla's HTTP observatory and Google's CSP evaluator say of a site, as one line of JSON.
//
//     node browser_suite.mjs PACKAGES HOST HTTP_PORT HTTPS_PORT
//
// The observatory's own scan() takes no ports; its parts do. The score is summed as it does.
import { createRequire } from "node:module";
import { join } from "node:path";

const [packages, host, httpPort, httpsPort] = process.argv.slice(2);
const observatory = join(packages, "@mdn", "mdn-http-observatory", "src");
const part = (name) => import(join(observatory, name));

const { retrieve } = await part("retriever/retriever.js");
const { ALL_TESTS } = await part("constants.js");
const { MINIMUM_SCORE_FOR_EXTRA_CREDIT } = await part("grader/charts.js");
const { getGradeForScore, getScoreModifier } = await part("grader/grader.js");

const seen = await retrieve(host, { httpPort: Number(httpPort), httpsPort: Number(httpsPort) });
const tests = {};
let bare = 100;
let full = 100;
for (const test of ALL_TESTS) {
  const output = test(seen);
  const points = getScoreModifier(output.result);
  tests[output.constructor.name] = [output.pass, String(output.result), points];
  full += points;
  bare += Math.min(points, 0);
}
const final = getGradeForScore(bare >= MINIMUM_SCORE_FOR_EXTRA_CREDIT ? full : bare);

const require = createRequire(import.meta.url);
const { CspEvaluator } = require(join(packages, "csp_evaluator", "dist", "evaluator.js"));
const { CspParser } = require(join(packages, "csp_evaluator", "dist", "parser.js"));
const { Severity } = require(join(packages, "csp_evaluator", "dist", "finding.js"));
const policy = seen.responses.auto?.headers["content-security-policy"] ?? "";
const findings = new CspEvaluator(new CspParser(policy).csp)
  .evaluate()
  .map((each) => [Severity[each.severity], each.directive, each.description]);

console.log(JSON.stringify({ ...final, tests, policy, findings }));
