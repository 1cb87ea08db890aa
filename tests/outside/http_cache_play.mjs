// Play npm's http-cache-tests against a cache: node http_cache_play.mjs PACKAGE BASE [ID ...]
//
// Prints one JSON object: `tests` (id, kind and the ids that a test depends on, in the suite's
// order) and `results` (by id: true, or the error's name and message), as the package's own
// command line has them. With ids, only these and what they depend on are played.
import { createRequire } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, base, ...ids] = process.argv.slice(2)
const load = name => import(pathToFileURL(path.join(folder, name)))

const { runTests, getResults } = await load('client/runner.mjs')
const suites = [
  ...(await load('tests/index.mjs')).default,
  (await load('tests/surrogate-control.mjs')).default
]
const fetch = createRequire(path.join(folder, 'package.json'))('node-fetch')

const byId = new Map(suites.flatMap(suite => suite.tests).map(test => [test.id, test]))
const wanted = new Set()
const want = id => {
  if (!byId.has(id)) throw new Error(`no test ${id} in this suite`)
  if (wanted.has(id)) return
  wanted.add(id)
  for (const other of byId.get(id).depends_on ?? []) want(other)
}
for (const id of ids.length ? ids : byId.keys()) want(id)

const played = suites.map(suite => ({
  ...suite,
  tests: suite.tests.filter(test => wanted.has(test.id))
}))
const tests = played.flatMap(suite => suite.tests).map(test => ({
  id: test.id,
  kind: test.kind ?? 'required',
  browser: test.browser_only === true,
  depends_on: test.depends_on ?? []
}))
await runTests(played, fetch, false, base)
process.stdout.write(JSON.stringify({ tests, results: getResults() }))
