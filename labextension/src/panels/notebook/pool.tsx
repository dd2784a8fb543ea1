import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import { Meter } from '../../components/meter';
import type { IPool, IShare } from '../../tokens';
import { bytes, hertz } from '../../words';

/**
 * What the pool of a machine has, as the server told it.
 */
export function PoolMeters(props: {
  readonly pool: IPool;
  readonly trans: TranslationBundle;
}): React.ReactElement {
  const { pool, trans } = props;
  const { memory, cpu } = pool;
  return (
    <>
      <Meter
        label={trans.__('Pool')}
        value={memory.promised}
        max={Math.max(memory.limit ?? memory.promised, 1)}
        scarce={memory.limit !== null}
        text={
          memory.limit === null
            ? trans.__('%1: %2 promised', pool.name, bytes(memory.promised))
            : trans.__(
                '%1: %2 of %3 promised',
                pool.name,
                bytes(memory.promised),
                bytes(memory.limit)
              )
        }
      />
      <div className="jp-VSandbox-facts" data-vsandbox="pool">
        {trans.__('Memory: %1', shareOf(memory, bytes, trans))}
        {cpu ? (
          <>
            <br />
            {trans.__('CPU: %1', shareOf(cpu, hertz, trans))}
          </>
        ) : null}
      </div>
    </>
  );
}

function shareOf(
  share: IShare,
  words: (count: number) => string,
  trans: TranslationBundle
): string {
  const facts = [trans.__('%1 used', words(share.used))];
  if (share.free !== null) {
    facts.push(trans.__('%1 free', words(share.free)));
  }
  facts.push(
    share.limit === null
      ? trans.__('no limit')
      : trans.__('limit %1', words(share.limit))
  );
  if (share.reservation > 0) {
    facts.push(trans.__('%1 reserved', words(share.reservation)));
  }
  return facts.join(' · ');
}
