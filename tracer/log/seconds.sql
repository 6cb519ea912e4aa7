-- What happened in each second that had events, as tcptrace live shows it; seconds without any have no row.
CREATE VIEW seconds AS
SELECT
  host,
  date_trunc('second', time) AS second,
  count(*) FILTER (kind <> 'lost') AS events,
  count(*) FILTER (old = 'CLOSE' AND new = 'SYN_SENT') AS opened,
  count(*) FILTER (kind = 'accept') AS accepted,
  count(*) FILTER (new = 'ESTABLISHED' AND old <> 'ESTABLISHED') AS established,
  count(*) FILTER (new = 'CLOSE' AND old NOT IN ('LISTEN', 'CLOSE')) AS closed,
  count(*) FILTER (old = 'SYN_SENT' AND new = 'CLOSE' AND (error IS NOT NULL OR sport = 0)) AS failed,
  coalesce(sum(lost), 0)::BIGINT AS lost
FROM events
GROUP BY host, second
ORDER BY host, second;
